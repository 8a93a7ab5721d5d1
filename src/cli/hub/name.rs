//! `organisation/name`, with a file and a revision: `org/name`, `org/name@revision`, `org/name/file.gguf@revision`.

use std::path::Path;

/// What a hub calls a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name {
    /// `organisation/name`.
    pub repository: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// A GGUF file of the repository; the published layout otherwise.
    pub file: Option<String>,
}

impl Name {
    /// `None` for what is no such name.
    pub fn parse(path: &Path) -> Option<Name> {
        let text = path.to_str()?;
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let parts: Vec<&str> = name.split('/').collect();
        let (repository, file) = parts.split_at_checked(2)?;
        let file = (!file.is_empty()).then(|| file.join("/"));
        let whole = parts.iter().all(|part| is_plain(part))
            && file.as_ref().is_none_or(|file| file.to_ascii_lowercase().ends_with(".gguf"))
            && revision.split('/').all(is_plain);
        whole.then(|| Name { repository: repository.join("/"), revision: revision.into(), file })
    }

    /// The folder of the cache that is the repository's.
    pub fn folder(&self) -> String {
        format!("models--{}", self.repository.replace('/', "--"))
    }
}

/// What a part of a name consists of; none leads out of a folder.
pub fn is_plain(part: &str) -> bool {
    let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !part.is_empty() && !part.starts_with('.') && part.chars().all(of_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_what_is_none() {
        let parse = |text: &str| Name::parse(Path::new(text));
        let of = |revision: &str, file: Option<&str>| {
            Some(Name { repository: "a/b-1.5".into(), revision: revision.into(), file: file.map(String::from) })
        };
        assert_eq!(parse("a/b-1.5"), of("main", None));
        assert_eq!(parse("a/b-1.5@v1"), of("v1", None));
        assert_eq!(parse("a/b-1.5@refs/pr/3"), of("refs/pr/3", None));
        assert_eq!(parse("a/b-1.5/q4.GGUF@0a1b"), of("0a1b", Some("q4.GGUF")));
        assert_eq!(parse("a/b-1.5/low/q4.gguf"), of("main", Some("low/q4.gguf")));
        for other in ["a", "/a/b", "../a", "a/../b.gguf", "a/b/c", "a/b@", "a/b@..", "a/.b", "a b/c", "a/b/", ""] {
            assert_eq!(parse(other), None, "{other}");
        }
        assert_eq!(parse("a/b-1.5").unwrap().folder(), "models--a--b-1.5");
    }
}
