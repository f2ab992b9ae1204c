//! Which files of a folder are left out of its bundle: a few that never belong
//! there, and what `.rungignore` names.
//!
//! The file has one pattern a line, in a small part of gitignore's language:
//! `*` and `?` within a name, a final `/` for directories only, a leading or
//! inner `/` to anchor the pattern at the folder, `#` for comments. Negation
//! (`!`) and `**` are errors.

/// Its name in an app's folder.
pub const FILE_NAME: &str = ".rungignore";
const MAX_BYTES: usize = 64 * 1024;
const MAX_PATTERNS: usize = 1000;

const ALWAYS: [&str; 8] =
    [".git", ".hg", ".svn", ".rung", ".rungignore", ".DS_Store", "__pycache__", "*.pyc"];

#[derive(Debug)]
struct Pattern {
    components: Vec<String>,
    anchored: bool,
    directory_only: bool,
}

/// Patterns of names to leave out.
#[derive(Debug)]
pub struct IgnoreList {
    patterns: Vec<Pattern>,
}

impl IgnoreList {
    /// What is left out of every folder.
    pub fn standard() -> Self {
        let pattern = |name: &&str| Pattern {
            components: vec![(*name).to_owned()],
            anchored: false,
            directory_only: false,
        };
        Self { patterns: ALWAYS.iter().map(pattern).collect() }
    }

    /// Adds the patterns of a `.rungignore`.
    ///
    /// # Errors
    /// Names the line that is not understood.
    pub fn with_file(mut self, text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("it is longer than {MAX_BYTES} bytes"));
        }
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if self.patterns.len() >= MAX_PATTERNS {
                return Err(format!("it has more than {MAX_PATTERNS} patterns"));
            }
            let pattern =
                parse_pattern(line).map_err(|why| format!("line {}: {why}", index + 1))?;
            self.patterns.push(pattern);
        }
        Ok(self)
    }

    /// Whether the entry at this relative path is left out. Parents are asked
    /// about before their children.
    pub fn matches(&self, path: &str, is_directory: bool) -> bool {
        let components: Vec<&str> = path.split('/').collect();
        self.patterns.iter().any(|pattern| {
            let candidate = if pattern.anchored {
                &components[..]
            } else {
                &components[components.len() - 1..]
            };
            (is_directory || !pattern.directory_only)
                && candidate.len() == pattern.components.len()
                && candidate.iter().zip(&pattern.components).all(|(name, p)| matches(p, name))
        })
    }
}

fn parse_pattern(line: &str) -> Result<Pattern, &'static str> {
    if line.starts_with('!') {
        return Err("patterns that include again (\"!\") are not supported");
    }
    if line.contains("**") || line.contains(['[', '\\']) {
        return Err("only * and ? are supported");
    }
    let directory_only = line.ends_with('/');
    let body = line.strip_suffix('/').unwrap_or(line);
    let anchored = body.contains('/');
    let body = body.strip_prefix('/').unwrap_or(body);
    let components: Vec<String> = body.split('/').map(str::to_owned).collect();
    if components.iter().any(String::is_empty) {
        return Err("a component is empty");
    }
    Ok(Pattern { components, anchored, directory_only })
}

/// Matches one name; `*` is any run of characters, `?` any one. Linear in the
/// name for each star, never exponential.
fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                Some((star, from)) => {
                    retry = Some((star, from + 1));
                    p = star + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_at_any_depth_and_anchored_patterns_only_at_the_top() {
        let list = IgnoreList::standard()
            .with_file("# notes\n*.log\n/build/\ntests/data?\nnode_modules/\n")
            .unwrap();
        for (path, is_directory, ignored) in [
            ("a.log", false, true),
            ("deep/er/a.log", false, true),
            ("build", true, true),
            ("build", false, false),
            ("sub/build", true, false),
            ("tests/data1", false, true),
            ("tests/data12", false, false),
            ("x/tests/data1", false, false),
            ("x/node_modules", true, true),
            (".git", true, true),
            ("sub/.git", false, true),
            ("x/__pycache__", true, true),
            ("a.logs", false, false),
        ] {
            assert_eq!(list.matches(path, is_directory), ignored, "{path}");
        }
    }

    #[test]
    fn what_is_not_supported_is_an_error_with_its_line() {
        for (text, line) in
            [("a\n!b", "line 2"), ("**/x", "line 1"), ("[ab]", "line 1"), ("/", "line 1")]
        {
            let error = IgnoreList::standard().with_file(text).unwrap_err();
            assert!(error.contains(line), "{error}");
        }
    }

    #[test]
    fn many_stars_do_not_take_long() {
        assert!(!matches(&"*a".repeat(40), &"a".repeat(39)));
        assert!(matches(&"*a".repeat(40), &"a".repeat(200)));
    }
}
