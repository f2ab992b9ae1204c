//! Looking: status, top, doctor, audit, the dashboard.

use http::Method;
use rung_proto::api::{AuditEntry, Finding, SessionLink, Severity, Status, Top};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::AGAIN;
use crate::client::Client;
use crate::output::{Exit, Screen, Trouble, now_ms};
use crate::render::table::{Cell, Table, Tone};
use crate::render::text::clean;
use crate::render::{overview, time};

pub async fn status(screen: &Screen, client: &Client, watch: bool) -> Result<Exit, Trouble> {
    let names = |status: &Status| status.nodes.iter().map(|node| node.name.clone()).collect();
    let people =
        |status: &Status| overview::status(status, screen.columns(), screen.color, now_ms());
    look(screen, client, "/api/v1/status", watch, names, people).await
}

pub async fn top(screen: &Screen, client: &Client, watch: bool) -> Result<Exit, Trouble> {
    let names = |top: &Top| top.nodes.iter().map(|node| node.name.clone()).collect();
    let people = |top: &Top| overview::top(top, screen.columns(), screen.color);
    look(screen, client, "/api/v1/top", watch, names, people).await
}

/// Shows an answer once, or again whenever it changes.
async fn look<T: Serialize + DeserializeOwned + PartialEq>(
    screen: &Screen,
    client: &Client,
    path: &str,
    watch: bool,
    names: impl Fn(&T) -> Vec<String>,
    people: impl Fn(&T) -> String,
) -> Result<Exit, Trouble> {
    let mut last: Option<T> = None;
    loop {
        let now: T = client.get(path).await?;
        if last.as_ref() != Some(&now) {
            if watch && screen.is_json() {
                screen.json_line(&now);
            } else {
                if watch && screen.terminal {
                    // Home, then clear what is below.
                    screen.print("\u{1b}[H\u{1b}[J");
                }
                screen.show(&now, &names, &people);
            }
        }
        if !watch {
            return Ok(Exit::Done);
        }
        last = Some(now);
        tokio::time::sleep(AGAIN).await;
    }
}

pub async fn doctor(screen: &Screen, client: &Client) -> Result<Exit, Trouble> {
    let findings: Vec<Finding> = client.get("/api/v1/doctor").await?;
    screen.show(
        &findings,
        |findings| findings.iter().map(|finding| finding.check.clone()).collect(),
        |findings| findings.iter().map(|finding| shown(finding, screen.color)).collect(),
    );
    Ok(Exit::failed_if(findings.iter().any(|finding| finding.severity == Severity::Problem)))
}

fn shown(finding: &Finding, color: bool) -> String {
    let (word, tone) = match finding.severity {
        Severity::Ok => ("ok", Tone::Good),
        Severity::Warning => ("warning", Tone::Warning),
        Severity::Problem => ("problem", Tone::Bad),
    };
    let word = tone.paint(&format!("{word:<7}"), color);
    let mut text = format!("{word}  {:<12}  {}\n", clean(&finding.check), clean(&finding.message));
    if !finding.next.is_empty() {
        text.push_str(&format!("{:23}next: {}\n", "", clean(&finding.next)));
    }
    text
}

pub async fn audit(screen: &Screen, client: &Client) -> Result<Exit, Trouble> {
    let entries: Vec<AuditEntry> = client.get("/api/v1/audit").await?;
    let wide = screen.is_wide();
    screen.show(
        &entries,
        |entries| entries.iter().map(|entry| entry.index.to_string()).collect(),
        |entries| {
            let mut table = Table::new(&["INDEX", "TIME", "BY", "ACTION"]);
            for entry in entries {
                let at = if wide { time::long(entry.at_ms) } else { time::short(entry.at_ms) };
                let row: Vec<Cell> = vec![
                    entry.index.to_string().into(),
                    at.into(),
                    entry.by.as_str().into(),
                    entry.action.as_str().into(),
                ];
                table.row(row);
            }
            screen.table(&table)
        },
    );
    Ok(Exit::Done)
}

pub async fn ui(screen: &Screen, client: &Client) -> Result<Exit, Trouble> {
    let link: SessionLink = client.change(Method::POST, "/api/v1/sessions", &()).await?;
    screen.show(&link, |link| vec![link.url.clone()], |link| format!("{}\n", link.url));
    if screen.terminal {
        let left = time::until(link.expires_ms, now_ms());
        screen.note(&format!("The link works once, within {left}; the page then for 15 minutes."));
    }
    Ok(Exit::Done)
}
