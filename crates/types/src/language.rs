//! Languages that `run_code` knows, as data: the server's configuration and `csb run` read the same table.
//!
//! Knows nothing of which interpreters a template holds; a missing one shows as `command_not_found` when it is run.

use serde::{Deserialize, Serialize};
use std::path::Path;

/// Stands for the code's file in [`Language::command`].
pub const FILE_MARK: &str = "{file}";

/// One language.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Language {
    /// Its name in requests and results, lower case.
    pub name: String,
    /// Other spellings of the name.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// File name extensions without the dot; the first one is given to code that comes without a file.
    pub extensions: Vec<String>,
    /// Program and arguments; [`FILE_MARK`] is replaced by the file's path. Arguments of the code follow.
    pub command: Vec<String>,
}

impl Language {
    /// The extension that code without a file name gets.
    pub fn extension(&self) -> &str {
        self.extensions.first().map_or("txt", String::as_str)
    }

    /// The command that runs `file` with `args`.
    pub fn argv(&self, file: &str, args: &[String]) -> Vec<String> {
        let command = self.command.iter().map(|part| part.replace(FILE_MARK, file));
        command.chain(args.iter().cloned()).collect()
    }
}

/// All languages, each name, alias and extension at most once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Languages(Vec<Language>);

/// Why a table of languages cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum LanguageError {
    /// Two languages claim the same word.
    #[error("`{word}` names two languages: {first} and {second}")]
    Twice {
        /// The name, alias or extension.
        word: String,
        /// Who has it.
        first: String,
        /// Who also wants it.
        second: String,
    },
    /// A language that could not be run.
    #[error("language `{name}`: {rule}")]
    Value {
        /// Which.
        name: String,
        /// What is allowed.
        rule: &'static str,
    },
}

impl Languages {
    /// A table of these languages.
    pub fn new(languages: Vec<Language>) -> Result<Self, LanguageError> {
        let word = |w: &String| !w.is_empty() && w.len() <= 32 && w.bytes().all(|c| c.is_ascii_graphic() && c != b'/');
        for (at, language) in languages.iter().enumerate() {
            let fail = |rule| Err(LanguageError::Value { name: language.name.chars().take(32).collect(), rule });
            if !std::iter::once(&language.name).chain(&language.aliases).chain(&language.extensions).all(word) {
                return fail("names and extensions are 1 to 32 visible ASCII characters without `/`");
            }
            if language.extensions.is_empty() {
                return fail("it has at least one extension");
            }
            if !language.command.iter().any(|part| part.contains(FILE_MARK)) {
                return fail("its command holds `{file}`");
            }
            for other in &languages[..at] {
                let clash = language
                    .names()
                    .find(|n| other.names().any(|o| o == *n))
                    .or_else(|| language.extensions.iter().find(|e| other.extensions.contains(e)).map(String::as_str));
                if let Some(word) = clash {
                    return Err(LanguageError::Twice {
                        word: word.into(),
                        first: other.name.clone(),
                        second: language.name.clone(),
                    });
                }
            }
        }
        Ok(Self(languages))
    }

    /// What is known without any configuration: Python, JavaScript, TypeScript, Bash and Go.
    pub fn builtin() -> Self {
        fn words(list: &[&str]) -> Vec<String> {
            list.iter().map(|w| (*w).to_owned()).collect()
        }
        let language = |name: &str, aliases: &[&str], extensions: &[&str], command: &[&str]| Language {
            name: name.into(),
            aliases: words(aliases),
            extensions: words(extensions),
            command: words(command),
        };
        Self(vec![
            language("python", &["py", "python3"], &["py"], &["python3", FILE_MARK]),
            language("javascript", &["js", "node", "nodejs"], &["js", "mjs", "cjs"], &["node", FILE_MARK]),
            // Node runs TypeScript by removing the types: with this flag from 22.6, without it from 22.18. An older
            // Node refuses the flag by name, which tells the user more than a syntax error in their code would.
            language(
                "typescript",
                &["ts"],
                &["ts", "mts", "cts"],
                &["node", "--experimental-strip-types", "--no-warnings", FILE_MARK],
            ),
            language("bash", &["sh", "shell"], &["sh", "bash"], &["bash", FILE_MARK]),
            language("go", &["golang"], &["go"], &["go", "run", FILE_MARK]),
        ])
    }

    /// The language of this name or alias, in any case.
    pub fn find(&self, name: &str) -> Option<&Language> {
        self.0.iter().find(|l| l.names().any(|n| n.eq_ignore_ascii_case(name)))
    }

    /// The language of a file by its extension.
    pub fn of_file(&self, path: &Path) -> Option<&Language> {
        let extension = path.extension()?.to_str()?;
        self.0.iter().find(|l| l.extensions.iter().any(|e| e.eq_ignore_ascii_case(extension)))
    }

    /// All of them, in the table's order.
    pub fn iter(&self) -> std::slice::Iter<'_, Language> {
        self.0.iter()
    }
}

impl Language {
    fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_found_by_name_alias_and_file() {
        let table = Languages::builtin();
        for (word, name) in [("python", "python"), ("PY", "python"), ("node", "javascript"), ("golang", "go")] {
            assert_eq!(table.find(word).map(|l| l.name.as_str()), Some(name), "{word}");
        }
        for (file, name) in [("a.py", Some("python")), ("/x/b.MJS", Some("javascript")), ("c", None), ("d.rb", None)] {
            assert_eq!(table.of_file(Path::new(file)).map(|l| l.name.as_str()), name, "{file}");
        }
        assert!(table.find("").is_none());
    }

    #[test]
    fn the_builtin_table_follows_its_own_rules() {
        let Languages(languages) = Languages::builtin();
        assert!(Languages::new(languages).is_ok());
    }

    #[test]
    fn arguments_follow_the_file() {
        let table = Languages::builtin();
        let argv = table.find("go").unwrap().argv("/tmp/main.go", &["-v".into()]);
        assert_eq!(argv, ["go", "run", "/tmp/main.go", "-v"]);
    }

    #[test]
    fn tables_that_cannot_work_are_refused() {
        let python = Languages::builtin().find("python").unwrap().clone();
        let clash = Language { name: "snake".into(), aliases: vec!["py".into()], ..python.clone() };
        assert!(matches!(Languages::new(vec![python.clone(), clash]), Err(LanguageError::Twice { .. })));
        let no_file = Language { command: vec!["python3".into()], ..python.clone() };
        assert!(matches!(Languages::new(vec![no_file]), Err(LanguageError::Value { .. })));
        let slash = Language { extensions: vec!["../x".into()], ..python };
        assert!(Languages::new(vec![slash]).is_err());
    }
}
