//! Join tokens.

use http::Method;
use rung_proto::api::{Token, TokenCreated, TokenRequest};

use crate::args::TokenCommand;
use crate::client::Client;
use crate::mutation;
use crate::output::{Exit, Screen, Trouble, now_ms};
use crate::render::table::Table;
use crate::render::time;
use crate::wire::encode;

pub async fn run(screen: &Screen, client: &Client, command: TokenCommand) -> Result<Exit, Trouble> {
    match command {
        TokenCommand::Create { ttl, uses } => {
            let request = TokenRequest {
                ttl_s: ttl.as_secs().max(1),
                uses,
                requested_by: mutation::requested_by(),
            };
            let created: TokenCreated =
                client.change(Method::POST, "/api/v1/tokens", &request).await?;
            // Nothing but the token, so that it can be written to a file.
            screen.show(
                &created,
                |created| vec![created.token.clone()],
                |created| format!("{}\n", created.token),
            );
            let (id, life) = (&created.id, time::until(created.expires_ms, now_ms()));
            screen.note(&format!("token {id}: {uses} use(s), expires in {life}, not shown again"));
        }
        TokenCommand::Ls => {
            let tokens: Vec<Token> = client.get("/api/v1/tokens").await?;
            screen.show(
                &tokens,
                |tokens| tokens.iter().map(|token| token.id.clone()).collect(),
                |tokens| screen.table(&table(tokens, now_ms())),
            );
        }
        TokenCommand::Revoke { id } => {
            let path = format!("/api/v1/tokens/{}", encode(&id));
            let token: Token = client.change(Method::DELETE, &path, &()).await?;
            screen.show(
                &token,
                |token| vec![token.id.clone()],
                |token| format!("token {} is revoked\n", token.id),
            );
        }
    }
    Ok(Exit::Done)
}

fn table(tokens: &[Token], now_ms: u64) -> Table {
    let mut table = Table::new(&["ID", "USES LEFT", "EXPIRES IN", "CREATED BY"]);
    for token in tokens {
        table.row(vec![
            token.id.as_str().into(),
            token.uses_left.to_string().into(),
            time::until(token.expires_ms, now_ms).into(),
            token.created_by.as_str().into(),
        ]);
    }
    table
}
