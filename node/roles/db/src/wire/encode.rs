//! What clients are sent, written as bytes.

use bytes::{BufMut, BytesMut};
use rung_sql::{ResultColumn, SqlError};

use crate::statistics::cut;

/// What ReadyForQuery says of the transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Idle,
    InTransaction,
    Failed,
}

/// How bad what an error response reports is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    Warning,
    Error,
    /// The connection ends with it.
    Fatal,
}

impl Severity {
    fn text(self) -> &'static str {
        match self {
            Severity::Warning => "WARNING",
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        }
    }
}

/// The longest text in an error, in bytes; a message may quote what a client sent.
const MAX_ERROR_TEXT: usize = 8 * 1024;

/// Writes a message: its kind, room for its length, its body, then the length.
fn message(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(kind);
    let start = out.len();
    out.put_i32(0);
    body(out);
    let length = i32::try_from(out.len() - start).expect("a message is shorter than 2 GiB");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// A text with its end. A zero byte within it would end it early, so it is cut.
fn put_text(out: &mut BytesMut, text: &str) {
    let text = text.split('\0').next().unwrap_or_default();
    out.put_slice(text.as_bytes());
    out.put_u8(0);
}

pub fn authentication_ok(out: &mut BytesMut) {
    message(out, b'R', |out| out.put_i32(0));
}

/// Offers the one mechanism of SASL.
pub fn authentication_sasl(out: &mut BytesMut, mechanisms: &[&str]) {
    message(out, b'R', |out| {
        out.put_i32(10);
        mechanisms.iter().for_each(|mechanism| put_text(out, mechanism));
        out.put_u8(0);
    });
}

pub fn authentication_sasl_continue(out: &mut BytesMut, data: &str) {
    message(out, b'R', |out| {
        out.put_i32(11);
        out.put_slice(data.as_bytes());
    });
}

pub fn authentication_sasl_final(out: &mut BytesMut, data: &str) {
    message(out, b'R', |out| {
        out.put_i32(12);
        out.put_slice(data.as_bytes());
    });
}

/// Protocol 3.0 is spoken, and these options of the client's are not known.
pub fn negotiate_protocol(out: &mut BytesMut, unknown: &[&str]) {
    message(out, b'v', |out| {
        // The major number is in it, as PostgreSQL sends it.
        out.put_i32(3 << 16);
        out.put_i32(unknown.len() as i32);
        unknown.iter().for_each(|name| put_text(out, name));
    });
}

pub fn parameter_status(out: &mut BytesMut, name: &str, value: &str) {
    message(out, b'S', |out| {
        put_text(out, name);
        put_text(out, value);
    });
}

pub fn backend_key(out: &mut BytesMut, process: i32, secret: i32) {
    message(out, b'K', |out| {
        out.put_i32(process);
        out.put_i32(secret);
    });
}

pub fn ready(out: &mut BytesMut, status: Status) {
    let status = match status {
        Status::Idle => b'I',
        Status::InTransaction => b'T',
        Status::Failed => b'E',
    };
    message(out, b'Z', |out| out.put_u8(status));
}

pub fn row_description(out: &mut BytesMut, columns: &[ResultColumn]) {
    message(out, b'T', |out| {
        out.put_i16(columns.len() as i16);
        for column in columns {
            put_text(out, &column.name);
            out.put_u32(column.table_oid);
            out.put_i16(column.column_number);
            out.put_u32(column.data_type.oid());
            out.put_i16(column.data_type.base.length());
            // Those below -1 are our own.
            out.put_i32(column.data_type.modifier.max(-1));
            out.put_i16(column.format);
        }
    });
}

pub fn no_data(out: &mut BytesMut) {
    message(out, b'n', |_| {});
}

pub fn parameter_description(out: &mut BytesMut, types: impl ExactSizeIterator<Item = u32>) {
    message(out, b't', |out| {
        out.put_u16(types.len() as u16);
        types.for_each(|oid| out.put_u32(oid));
    });
}

pub fn command_complete(out: &mut BytesMut, tag: &str) {
    message(out, b'C', |out| put_text(out, tag));
}

pub fn empty_query(out: &mut BytesMut) {
    message(out, b'I', |_| {});
}

pub fn parse_complete(out: &mut BytesMut) {
    message(out, b'1', |_| {});
}

pub fn bind_complete(out: &mut BytesMut) {
    message(out, b'2', |_| {});
}

pub fn close_complete(out: &mut BytesMut) {
    message(out, b'3', |_| {});
}

pub fn portal_suspended(out: &mut BytesMut) {
    message(out, b's', |_| {});
}

/// Asks for COPY data (`G`) or announces it (`H`).
fn copy_response(out: &mut BytesMut, kind: u8, binary: bool, columns: usize) {
    message(out, kind, |out| {
        let format = i16::from(binary);
        out.put_u8(format as u8);
        out.put_i16(columns as i16);
        (0..columns).for_each(|_| out.put_i16(format));
    });
}

pub fn copy_in_response(out: &mut BytesMut, binary: bool, columns: usize) {
    copy_response(out, b'G', binary, columns);
}

pub fn copy_out_response(out: &mut BytesMut, binary: bool, columns: usize) {
    copy_response(out, b'H', binary, columns);
}

pub fn copy_done(out: &mut BytesMut) {
    message(out, b'c', |_| {});
}

/// An error or a notice with every field that it has.
pub fn error(out: &mut BytesMut, severity: Severity, error: &SqlError) {
    let is_notice = severity == Severity::Warning;
    message(out, if is_notice { b'N' } else { b'E' }, |out| {
        put_field(out, b'S', severity.text());
        put_field(out, b'V', severity.text());
        put_field(out, b'C', error.state.0);
        put_field(out, b'M', &error.message);
        let position = error.position.map(|position| position.to_string());
        for (code, value) in [
            (b'D', &error.detail),
            (b'H', &error.hint),
            (b'P', &position),
            (b't', &error.table),
            (b'c', &error.column),
            (b'n', &error.constraint),
        ] {
            if let Some(value) = value {
                put_field(out, code, value);
            }
        }
        if error.table.is_some() {
            put_field(out, b's', "public");
        }
        out.put_u8(0);
    });
}

fn put_field(out: &mut BytesMut, code: u8, value: &str) {
    out.put_u8(code);
    put_text(out, cut(value, MAX_ERROR_TEXT));
}

#[cfg(test)]
mod tests {
    use rung_sql::SqlState;

    use super::*;

    #[test]
    fn an_error_carries_its_fields_and_is_cut_at_a_character() {
        let mut out = BytesMut::new();
        let text = "é".repeat(MAX_ERROR_TEXT);
        error(&mut out, Severity::Error, &SqlError::new(SqlState::SYNTAX_ERROR, text).hint("no"));
        assert_eq!(out[0], b'E');
        let length = i32::from_be_bytes(out[1..5].try_into().unwrap());
        assert_eq!(length as usize, out.len() - 1);
        assert!(out.ends_with("é\0Hno\0\0".as_bytes()));
        let first = b"SERROR\0VERROR\0C42601\0M";
        assert_eq!(&out[5..5 + first.len()], first);
    }

    #[test]
    fn a_zero_byte_does_not_break_the_frame() {
        let mut out = BytesMut::new();
        parameter_status(&mut out, "a\0b", "c");
        assert_eq!(&out[5..], b"a\0c\0");
    }
}
