//! Tables that fit their columns.

use super::text::clean;

/// What a cell means, shown as a colour where colours are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tone {
    #[default]
    Plain,
    Good,
    Warning,
    Bad,
    Soft,
}

impl Tone {
    /// Wraps text in the colour.
    pub fn paint(self, text: &str, color: bool) -> String {
        let code = match self {
            Tone::Plain => return text.to_owned(),
            Tone::Good => 32,
            Tone::Warning => 33,
            Tone::Bad => 31,
            Tone::Soft => 90,
        };
        if color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        // A cell is one line, whatever an app or a peer put in it.
        let text = clean(&text.into().replace('\n', " "));
        Self { text, tone }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Cell::toned(text, Tone::Plain)
    }
}

/// Rows under headings.
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

const GAP: usize = 2;
/// No column is made narrower than this to save room.
const NARROWEST: usize = 6;

impl Table {
    pub fn new(headings: &[&'static str]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; cells beyond the headings are left out.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as lines. Where it is wider than `columns`, its widest columns
    /// are cut and end in `…`.
    pub fn render(&self, columns: Option<usize>, color: bool) -> String {
        let mut widths: Vec<usize> = self.headings.iter().map(|h| h.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        if let Some(columns) = columns {
            shrink(&mut widths, columns);
        }
        let headings: Vec<Cell> =
            self.headings.iter().map(|h| Cell::toned(*h, Tone::Soft)).collect();
        let mut out = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            render_row(&mut out, row, &widths, color);
        }
        out
    }
}

fn shrink(widths: &mut [usize], columns: usize) {
    let gaps = GAP * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > columns {
        let Some(widest) = widths.iter_mut().max_by_key(|width| **width) else { return };
        if *widest <= NARROWEST {
            return;
        }
        *widest -= 1;
    }
}

fn render_row(out: &mut String, row: &[Cell], widths: &[usize], color: bool) {
    let mut line = String::new();
    let mut owed = 0;
    for (cell, width) in row.iter().zip(widths) {
        line.extend(std::iter::repeat_n(' ', owed));
        let shown = cut(&cell.text, *width);
        owed = width - shown.chars().count() + GAP;
        line.push_str(&cell.tone.paint(&shown, color && !shown.is_empty()));
    }
    out.push_str(line.trim_end());
    out.push('\n');
}

/// At most `width` characters, the last one `…` when some are missing.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut shown: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NODE", "STATE", "ROLES"]);
        table.row(vec!["n1".into(), Cell::toned("alive", Tone::Good), "lb web".into()]);
        table.row(vec!["n10-long".into(), Cell::toned("down", Tone::Bad), "".into()]);
        assert_eq!(
            table.render(Some(80), false),
            "NODE      STATE  ROLES\n\
             n1        alive  lb web\n\
             n10-long  down\n"
        );
        assert!(table.render(Some(80), true).contains("\u{1b}[31mdown\u{1b}[0m"));
    }

    #[test]
    fn control_characters_of_others_do_not_reach_the_terminal() {
        let mut table = Table::new(&["A"]);
        table.row(vec!["x\u{1b}]0;evil\u{7}\ny".into()]);
        assert!(table.render(None, false).chars().all(|c| c == '\n' || !c.is_control()));
    }

    proptest::proptest! {
        #[test]
        fn a_table_of_few_columns_fits(cells in proptest::collection::vec(
            proptest::collection::vec("\\PC{0,120}", 5), 0..6)) {
            let mut table = Table::new(&["ONE", "TWO", "THREE", "FOUR", "FIVE"]);
            for row in cells {
                table.row(row.into_iter().map(Cell::from).collect());
            }
            for line in table.render(Some(80), false).lines() {
                proptest::prop_assert!(line.chars().count() <= 80, "{line}");
            }
        }
    }
}
