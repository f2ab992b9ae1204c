//! Events and logs.

use rung_proto::Role;
use rung_proto::api::{Event, LogLine};

use crate::client::Client;
use crate::output::{Exit, Format, Screen, Trouble};
use crate::render::overview;
use crate::wire::encode;

pub async fn events(
    screen: &Screen,
    client: &Client,
    watch: bool,
    since: u64,
) -> Result<Exit, Trouble> {
    let mut lines =
        client.lines::<Event>(&format!("/api/v1/events?since={since}&follow={watch}")).await?;
    while let Some(event) = lines.next().await? {
        match screen.format {
            Format::Json => screen.json_line(&event),
            Format::Name => screen.line(&event.index.to_string()),
            Format::Table | Format::Wide => {
                screen.line(&overview::event(&event, screen.is_wide(), screen.color));
            }
        }
    }
    Ok(Exit::Done)
}

/// Which log lines are wanted.
pub struct Logs {
    pub target: String,
    pub node: Option<String>,
    pub lines: u32,
    pub follow: bool,
}

impl Logs {
    fn path(&self) -> String {
        let target = match self.target.strip_prefix("app:") {
            Some(app) => format!("app={}", encode(app)),
            None if self.target.parse::<Role>().is_ok() => format!("role={}", self.target),
            None => format!("app={}", encode(&self.target)),
        };
        let node = self.node.as_ref().map(|node| format!("&node={}", encode(node)));
        format!(
            "/api/v1/logs?{target}{}&lines={}&follow={}",
            node.unwrap_or_default(),
            self.lines,
            self.follow
        )
    }
}

pub async fn logs(screen: &Screen, client: &Client, wanted: Logs) -> Result<Exit, Trouble> {
    let mut lines = client.lines::<LogLine>(&wanted.path()).await?;
    while let Some(line) = lines.next().await? {
        match screen.format {
            Format::Json => screen.json_line(&line),
            // The bare line, for another program.
            Format::Name => screen.line(&line.line),
            Format::Table | Format::Wide => {
                let wide = screen.is_wide();
                screen.line(&overview::log_line(&line, wide, screen.color, screen.terminal));
            }
        }
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_s_name_means_the_role_unless_it_is_called_an_app() {
        let path = |target: &str| {
            Logs { target: target.to_owned(), node: None, lines: 5, follow: false }.path()
        };
        assert_eq!(path("web"), "/api/v1/logs?role=web&lines=5&follow=false");
        assert_eq!(path("app:web"), "/api/v1/logs?app=web&lines=5&follow=false");
        assert_eq!(path("a&b"), "/api/v1/logs?app=a%26b&lines=5&follow=false");
    }
}
