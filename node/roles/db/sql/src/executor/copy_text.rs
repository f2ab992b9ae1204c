//! Records of COPY's text and csv formats: where they end, what their fields are, and
//! how they are written.

use crate::statement::{CopyCommand, CopyFormat};
use crate::{SqlError, SqlState};

/// A field: None is null.
pub(super) type Field = Option<Vec<u8>>;

/// Finds the ends of records in data that comes in pieces.
#[derive(Clone, Debug, Default)]
pub(super) struct Splitter {
    /// Bytes that were looked at already.
    position: usize,
    in_quotes: bool,
    is_escaped: bool,
}

impl Splitter {
    /// The length of the first record and of its line end; None if more data is needed.
    pub fn next(&mut self, data: &[u8], command: &CopyCommand) -> Option<(usize, usize)> {
        let csv = command.format == CopyFormat::Csv;
        while let Some(&byte) = data.get(self.position) {
            self.position += 1;
            if self.is_escaped {
                self.is_escaped = false;
                continue;
            }
            match byte {
                b'\\' if !csv => self.is_escaped = true,
                _ if csv && self.in_quotes && byte == command.escape && byte != command.quote => {
                    self.is_escaped = true;
                }
                // A doubled quote leaves and enters again.
                _ if csv && byte == command.quote => self.in_quotes = !self.in_quotes,
                b'\n' if !self.in_quotes => {
                    let end = self.position - 1;
                    *self = Self::default();
                    let before = end.checked_sub(1).and_then(|last| data.get(last));
                    let carriage = usize::from(before == Some(&b'\r'));
                    return Some((end - carriage, 1 + carriage));
                }
                _ => {}
            }
        }
        None
    }
}

fn bad(message: impl Into<String>) -> SqlError {
    SqlError::new(SqlState::BAD_COPY_FORMAT, message)
}

/// The fields of one record in the text format.
pub(super) fn text_fields(line: &[u8], command: &CopyCommand) -> Vec<Field> {
    let mut fields = Vec::new();
    let mut start = 0;
    let mut position = 0;
    loop {
        match line.get(position) {
            Some(b'\\') => position += 2,
            Some(byte) if *byte == command.delimiter => {
                fields.push(text_field(&line[start..position], command));
                position += 1;
                start = position;
            }
            Some(_) => position += 1,
            None => {
                fields.push(text_field(&line[start.min(line.len())..], command));
                return fields;
            }
        }
    }
}

fn text_field(raw: &[u8], command: &CopyCommand) -> Field {
    if raw == command.null.as_bytes() {
        return None;
    }
    if !raw.contains(&b'\\') {
        return Some(raw.to_vec());
    }
    let mut value = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            value.push(byte);
            continue;
        }
        let Some((&code, after)) = rest.split_first() else {
            value.push(b'\\');
            break;
        };
        rest = after;
        match code {
            b'b' => value.push(8),
            b'f' => value.push(12),
            b'n' => value.push(b'\n'),
            b'r' => value.push(b'\r'),
            b't' => value.push(b'\t'),
            b'v' => value.push(11),
            b'0'..=b'7' => {
                let (more, used) = digits(rest, 8, 2);
                let first = u32::from(code - b'0');
                value.push(((first << (3 * used) | more) & 0xff) as u8);
                rest = &rest[used..];
            }
            b'x' => match digits(rest, 16, 2) {
                (_, 0) => value.push(b'x'),
                (number, used) => {
                    value.push(number as u8);
                    rest = &rest[used..];
                }
            },
            other => value.push(other),
        }
    }
    Some(value)
}

/// The number that up to `most` digits make, and how many there are.
fn digits(bytes: &[u8], radix: u32, most: usize) -> (u32, usize) {
    let digits = bytes.iter().take(most).map_while(|byte| char::from(*byte).to_digit(radix));
    digits.fold((0, 0), |(number, used), digit| (number * radix + digit, used + 1))
}

/// The fields of one record in the csv format. `names` are those of the columns.
pub(super) fn csv_fields(
    line: &[u8],
    command: &CopyCommand,
    names: &[String],
) -> Result<Vec<Field>, SqlError> {
    let mut fields = Vec::new();
    let mut value = Vec::new();
    let (mut in_quotes, mut was_quoted) = (false, false);
    let mut position = 0;
    loop {
        let next = line.get(position).copied();
        position += 1;
        match next {
            None if in_quotes => return Err(bad("unterminated CSV quoted field")),
            None => {
                fields.push(csv_field(value, was_quoted, command, names.get(fields.len())));
                return Ok(fields);
            }
            Some(byte) if in_quotes => {
                let following = line.get(position).copied();
                let escapes = byte == command.escape
                    && following.is_some_and(|f| f == command.quote || f == command.escape);
                if escapes {
                    value.extend(following);
                    position += 1;
                } else if byte == command.quote {
                    in_quotes = false;
                } else {
                    value.push(byte);
                }
            }
            Some(byte) if byte == command.quote => {
                in_quotes = true;
                was_quoted = true;
            }
            Some(byte) if byte == command.delimiter => {
                let whole = std::mem::take(&mut value);
                fields.push(csv_field(whole, was_quoted, command, names.get(fields.len())));
                was_quoted = false;
            }
            Some(byte) => value.push(byte),
        }
    }
}

fn csv_field(
    value: Vec<u8>,
    was_quoted: bool,
    command: &CopyCommand,
    name: Option<&String>,
) -> Field {
    let listed = |list: &[String]| name.is_some_and(|name| list.contains(name));
    let may_be_null = match was_quoted {
        true => listed(&command.force_null),
        false => !listed(&command.force_not_null),
    };
    if may_be_null && value == command.null.as_bytes() { None } else { Some(value) }
}

/// Writes a field in the text format.
pub(super) fn write_text(out: &mut Vec<u8>, value: &[u8], command: &CopyCommand) {
    for &byte in value {
        let code = match byte {
            8 => b'b',
            12 => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            11 => b'v',
            b'\\' => b'\\',
            _ if byte == command.delimiter => byte,
            _ => {
                out.push(byte);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', code]);
    }
}

/// Writes a field in the csv format; `only` says that it is the record's only one.
pub(super) fn write_csv(
    out: &mut Vec<u8>,
    value: &[u8],
    command: &CopyCommand,
    force: bool,
    only: bool,
) {
    let special = |byte: &u8| {
        *byte == command.delimiter || *byte == command.quote || matches!(*byte, b'\n' | b'\r')
    };
    let quote = force
        || value == command.null.as_bytes()
        || value.iter().any(special)
        || (only && value == b"\\.");
    if !quote {
        out.extend_from_slice(value);
        return;
    }
    out.push(command.quote);
    for &byte in value {
        if byte == command.quote || byte == command.escape {
            out.push(command.escape);
        }
        out.push(byte);
    }
    out.push(command.quote);
}
