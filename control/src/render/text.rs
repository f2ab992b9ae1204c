//! Small pieces of text.

use rung_proto::Failure;

use super::table::Tone;

/// Removes terminal sequences and control characters but tabs, which a program
/// may have logged and which must not move our cursor.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            skip_sequence(&mut characters);
        } else if character == '\t' || !character.is_control() {
            out.push(character);
        }
    }
    out
}

/// Skips the rest of a CSI sequence (ECMA-48, section 5.4); of any other, what
/// follows the escape stays as text.
fn skip_sequence(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    if characters.next_if_eq(&'[').is_none() {
        return;
    }
    while characters.next_if(|c| ('\u{20}'..='\u{3f}').contains(c)).is_some() {}
    let _ = characters.next_if(|c| ('\u{40}'..='\u{7e}').contains(c));
}

/// An error as a person reads it.
pub fn failure(failure: &Failure, color: bool) -> String {
    let mut out = format!("{} {}\n", Tone::Bad.paint("error:", color), clean(&failure.what));
    for (label, text) in [("why: ", &failure.why), ("next:", &failure.next)] {
        let mut lines = text.lines();
        if let Some(first) = lines.next() {
            out.push_str(&format!("  {label} {}\n", clean(first)));
        }
        for line in lines {
            out.push_str(&format!("        {}\n", clean(line)));
        }
    }
    let code = failure.code;
    out.push_str(&format!("  code: {code} (see `ctl explain {code}`)\n"));
    out
}

/// A number of bytes in powers of 1000, for example `31 MB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && value < 9.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A share of one, for example `25%`.
pub fn percent(share: f64) -> String {
    format!("{:.0}%", share.clamp(0.0, 1.0) * 100.0)
}

/// Words one after the other, or a dash for none.
pub fn words(list: impl IntoIterator<Item = impl ToString>) -> String {
    let words: Vec<String> = list.into_iter().map(|word| word.to_string()).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(" ") }
}

/// Breaks prose at spaces to lines of at most `width` characters.
pub fn wrap(prose: &str, width: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in prose.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            out.push('\n');
            column = 0;
        }
        if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use rung_proto::Code;

    use super::*;

    #[test]
    fn colours_of_apps_are_removed_and_their_text_stays() {
        assert_eq!(clean("a\u{1b}[1;31mred\u{1b}[0m b\tc\r\u{8}"), "ared b\tc");
        assert_eq!(clean("\u{1b}[2J\u{1b}[Hx\u{1b}"), "x");
        assert_eq!(clean("\u{1b}]0;title\u{7}x"), "]0;titlex");
    }

    #[test]
    fn an_error_says_what_why_next_and_its_code() {
        let failed = Failure::new(Code::AppFailed, "photos release 5 does not start")
            .because("exit code 1\n| no module named x")
            .next("fix it and deploy again");
        assert_eq!(
            failure(&failed, false),
            "error: photos release 5 does not start\n\
             \x20 why:  exit code 1\n\
             \x20       | no module named x\n\
             \x20 next: fix it and deploy again\n\
             \x20 code: app-failed (see `ctl explain app-failed`)\n"
        );
    }

    #[test]
    fn bytes_have_two_or_three_digits() {
        let cases = [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9960, "10 kB")];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(999_999), "1.0 MB");
        assert_eq!(bytes(31_400_000), "31 MB");
        assert_eq!(bytes(u64::MAX), "18447 PB");
    }

    #[test]
    fn prose_is_broken_at_spaces() {
        assert_eq!(wrap("one two  three", 7), "one two\nthree\n");
    }
}
