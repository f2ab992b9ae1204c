//! A new generation of the cluster.

use rung_proto::api::{ClusterRecovered, RecoverRequest};

use crate::args::ConsentOptions;
use crate::client::Client;
use crate::mutation;
use crate::output::{Exit, Screen, Trouble};
use crate::render::text::clean;

pub async fn run(
    screen: &Screen,
    client: &Client,
    consent: ConsentOptions,
) -> Result<Exit, Trouble> {
    let request =
        RecoverRequest { consent: consent.consent(), requested_by: mutation::requested_by() };
    let recovered: ClusterRecovered = client.long_change("/api/v1/recover", &request).await?;
    screen.show(
        &recovered,
        |recovered| vec![recovered.generation.to_string()],
        |ClusterRecovered { generation, node, entry, term }| {
            let node = clean(node);
            format!(
                "generation {generation}, from the control log of {node} up to entry {entry} of \
                 term {term}\n"
            )
        },
    );
    screen.note("`ctl doctor` says which databases have lost a majority as well");
    Ok(Exit::Done)
}
