//! Files of statements with their answers.

use std::path::PathBuf;

pub struct Step {
    pub statement: String,
    pub expected: Vec<String>,
}

pub struct Case {
    pub steps: Vec<Step>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/sql/cases")
}

impl Case {
    pub fn read(name: &str) -> Self {
        let path = folder().join(name);
        let text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut steps: Vec<Step> = Vec::new();
        let mut in_statement = false;
        for line in text.lines() {
            if let Some(part) = line.strip_prefix("> ") {
                match steps.last_mut() {
                    Some(step) if in_statement => {
                        step.statement.push('\n');
                        step.statement.push_str(part);
                    }
                    _ => steps.push(Step { statement: part.to_owned(), expected: Vec::new() }),
                }
                in_statement = true;
                continue;
            }
            in_statement = false;
            if let Some(step) = steps.last_mut()
                && !line.is_empty()
                && !line.starts_with('#')
                // SQLite does not tell the row that a constraint refuses.
                && !line.starts_with("DETAIL: Failing row contains")
            {
                step.expected.push(line.to_owned());
            }
        }
        Self { steps }
    }

    pub fn files() -> Vec<String> {
        let entries = std::fs::read_dir(folder()).expect("the folder of cases");
        let names = entries.map(|entry| entry.expect("a case").file_name());
        names.map(|name| name.into_string().expect("a name in UTF-8")).collect()
    }
}
