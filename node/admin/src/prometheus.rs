//! Writes metrics in the Prometheus text format, version 0.0.4.
//!
//! ```
//! let mut out = String::new();
//! rung_admin::prometheus::counter(&mut out, "rung_lb_requests_total", "Requests answered.")
//!     .count(&[("code", "200")], 5)
//!     .count(&[("code", "503")], 1);
//! assert!(out.ends_with("rung_lb_requests_total{code=\"503\"} 1\n"));
//! ```

use std::fmt::Write;

/// A counter: a number that only rises. Its name ends in `_total`.
pub fn counter<'a>(out: &'a mut String, name: &'a str, help: &str) -> Family<'a> {
    Family::begin(out, name, help, "counter")
}

/// A gauge: a number that goes up and down.
pub fn gauge<'a>(out: &'a mut String, name: &'a str, help: &str) -> Family<'a> {
    Family::begin(out, name, help, "gauge")
}

/// A histogram, written with [`Family::buckets`].
pub fn histogram<'a>(out: &'a mut String, name: &'a str, help: &str) -> Family<'a> {
    Family::begin(out, name, help, "histogram")
}

/// The samples of one metric; each metric of a page is begun once.
pub struct Family<'a> {
    out: &'a mut String,
    name: &'a str,
}

/// What a histogram counted.
#[derive(Clone, Copy, Debug)]
pub struct Buckets<'a> {
    /// Upper bounds, rising; the last bucket, without bound, is not named.
    pub bounds: &'a [f64],
    /// Observations of each bucket alone, one more than there are bounds.
    pub counts: &'a [u64],
    pub sum: f64,
}

impl<'a> Family<'a> {
    fn begin(out: &'a mut String, name: &'a str, help: &str, kind: &str) -> Self {
        debug_assert!(is_name(name), "{name:?} is not the name of a metric");
        out.push_str("# HELP ");
        out.push_str(name);
        out.push(' ');
        escape(out, help, false);
        // Writing to a string cannot fail.
        let _ = write!(out, "\n# TYPE {name} {kind}\n");
        Self { out, name }
    }

    /// A whole number.
    pub fn count(mut self, labels: &[(&str, &str)], value: u64) -> Self {
        self.series("", labels, None);
        let _ = writeln!(self.out, " {value}");
        self
    }

    /// Any number.
    pub fn value(mut self, labels: &[(&str, &str)], value: f64) -> Self {
        self.series("", labels, None);
        self.number(value);
        self
    }

    /// A histogram with its cumulative buckets, sum and count.
    pub fn buckets(mut self, labels: &[(&str, &str)], buckets: Buckets<'_>) -> Self {
        debug_assert_eq!(buckets.counts.len(), buckets.bounds.len() + 1);
        let mut total: u64 = 0;
        let bounds = buckets.bounds.iter().copied().chain([f64::INFINITY]);
        for (bound, count) in bounds.zip(buckets.counts) {
            total = total.saturating_add(*count);
            self.series("_bucket", labels, Some(bound));
            let _ = writeln!(self.out, " {total}");
        }
        self.series("_sum", labels, None);
        self.number(buckets.sum);
        self.series("_count", labels, None);
        let _ = writeln!(self.out, " {total}");
        self
    }

    fn number(&mut self, value: f64) {
        self.out.push(' ');
        write_number(self.out, value);
        self.out.push('\n');
    }

    fn series(&mut self, suffix: &str, labels: &[(&str, &str)], bound: Option<f64>) {
        self.out.push_str(self.name);
        self.out.push_str(suffix);
        if labels.is_empty() && bound.is_none() {
            return;
        }
        let mut opening = '{';
        for (name, value) in labels {
            debug_assert!(is_name(name), "{name:?} is not the name of a label");
            self.out.push(opening);
            let _ = write!(self.out, "{name}=\"");
            escape(self.out, value, true);
            self.out.push('"');
            opening = ',';
        }
        if let Some(bound) = bound {
            self.out.push(opening);
            self.out.push_str("le=\"");
            write_number(self.out, bound);
            self.out.push('"');
        }
        self.out.push('}');
    }
}

fn write_number(out: &mut String, value: f64) {
    if value.is_nan() {
        out.push_str("NaN");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        let _ = write!(out, "{value}");
    }
}

fn escape(out: &mut String, text: &str, quotes: bool) {
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            other => out.push(other),
        }
    }
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_help_type_and_escaped_labels() {
        let mut out = String::new();
        gauge(&mut out, "rung_up", "One \\ line\nor two.")
            .value(&[("app", "a\"b\\c\nd"), ("dc", "east")], 0.5)
            .count(&[], 1);
        assert_eq!(
            out,
            "# HELP rung_up One \\\\ line\\nor two.\n# TYPE rung_up gauge\n\
             rung_up{app=\"a\\\"b\\\\c\\nd\",dc=\"east\"} 0.5\nrung_up 1\n"
        );
    }

    #[test]
    fn the_buckets_of_a_histogram_are_cumulative() {
        let mut out = String::new();
        let buckets = Buckets { bounds: &[0.1, 1.0], counts: &[3, 2, 1], sum: 4.25 };
        histogram(&mut out, "rung_wait_seconds", "Waiting.").buckets(&[("role", "lb")], buckets);
        let lines: Vec<&str> = out.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "rung_wait_seconds_bucket{role=\"lb\",le=\"0.1\"} 3",
                "rung_wait_seconds_bucket{role=\"lb\",le=\"1\"} 5",
                "rung_wait_seconds_bucket{role=\"lb\",le=\"+Inf\"} 6",
                "rung_wait_seconds_sum{role=\"lb\"} 4.25",
                "rung_wait_seconds_count{role=\"lb\"} 6",
            ]
        );
    }

    proptest::proptest! {
        #[test]
        fn a_label_never_breaks_its_line(value in "\\PC*|[\"\\\\\n]*") {
            let mut out = String::new();
            gauge(&mut out, "rung_x", "X.").count(&[("v", &value)], 1);
            proptest::prop_assert_eq!(out.lines().filter(|l| l.starts_with("rung_x")).count(), 1);
            let whole = out.ends_with("\"} 1\n");
            proptest::prop_assert!(whole);
        }
    }
}
