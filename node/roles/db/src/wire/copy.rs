//! The data of COPY, which is passed on in pieces in both directions.

use bytes::BytesMut;
use rung_sql::{SqlError, SqlState};

use super::connection::{Connection, End};
use super::encode;
use super::frontend::{Header, Message};
use super::stream::WireError;
use crate::rows::Rows;

/// Data is handed to the executor in pieces of about that size.
const PIECE: usize = 256 * 1024;

/// What a message within the data of COPY means.
enum Next {
    Data,
    Done,
    Ignored,
    Failed(SqlError),
}

impl Connection {
    /// Sends the data of a COPY.
    pub async fn copy_out(
        &mut self,
        rows: &Rows,
        tag: &str,
        binary: bool,
        columns: usize,
    ) -> Result<(), End> {
        encode::copy_out_response(&mut self.wire.output, binary, columns);
        self.send_rows(rows).await?;
        encode::copy_done(&mut self.wire.output);
        self.complete(tag);
        Ok(())
    }

    /// Asks for the data of a COPY and takes it. The inner error is the client's to
    /// know: the COPY has failed.
    pub async fn copy_in(
        &mut self,
        binary: bool,
        columns: usize,
    ) -> Result<Result<String, SqlError>, End> {
        encode::copy_in_response(&mut self.wire.output, binary, columns);
        self.wire.flush().await?;
        let copied = self.take_copy_data().await?;
        if copied.is_err() {
            self.session.copy_failed().await;
        }
        Ok(copied)
    }

    async fn take_copy_data(&mut self) -> Result<Result<String, SqlError>, End> {
        let mut data = BytesMut::new();
        loop {
            let header = self.wire.header().await?;
            match self.copy_message(header).await? {
                Next::Data => {
                    let mut remaining = header.body;
                    while remaining > 0 {
                        let piece = self.wire.piece(remaining).await?;
                        remaining -= piece.len();
                        data.extend_from_slice(&piece);
                        if data.len() >= PIECE
                            && let Err(error) = self.session.copy_data(data.split().freeze()).await
                        {
                            self.drop_data(remaining).await?;
                            return Ok(Err(error));
                        }
                    }
                }
                Next::Done => break,
                Next::Ignored => {}
                Next::Failed(error) => return Ok(Err(error)),
            }
        }
        if !data.is_empty()
            && let Err(error) = self.session.copy_data(data.freeze()).await
        {
            return Ok(Err(error));
        }
        Ok(self.session.copy_done().await)
    }

    /// Takes a message off the input, but of data its header only.
    async fn copy_message(&mut self, header: Header) -> Result<Next, End> {
        if header.kind == b'd' {
            self.wire.skip_header();
            return Ok(Next::Data);
        }
        let body = self.wire.body(header).await?;
        Ok(match Message::parse(header.kind, &body).map_err(WireError::from)? {
            Message::CopyDone => Next::Done,
            // A client may send these without knowing that a COPY has begun.
            Message::Flush | Message::Sync => Next::Ignored,
            Message::CopyFail(why) => Next::Failed(SqlError::new(
                SqlState::QUERY_CANCELED,
                format!("COPY from stdin failed: {why}"),
            )),
            Message::Terminate => return Err(End::Terminated),
            _ => {
                return Err(End::Fatal(SqlError::new(
                    SqlState::PROTOCOL_VIOLATION,
                    format!("unexpected message type 0x{:02X} during COPY from stdin", header.kind),
                )));
            }
        })
    }

    async fn drop_data(&mut self, mut remaining: usize) -> Result<(), End> {
        while remaining > 0 {
            remaining -= self.wire.piece(remaining).await?.len();
        }
        Ok(())
    }
}
