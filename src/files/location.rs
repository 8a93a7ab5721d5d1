//! Where a model's files are: a folder in the published layout, or one GGUF file.

use crate::files::source::Source;

/// Files of a model.
pub enum Location {
    /// config.json, model.safetensors or its shards, tokenizer.model, preprocessor_config.json.
    Folder(Box<dyn Source>),
    /// A GGUF file, by its name in the source.
    Gguf(Box<dyn Source>, String),
}

#[cfg(not(target_arch = "wasm32"))]
mod path {
    use std::io::Read;
    use std::path::Path;

    use super::Location;
    use crate::error::{Error, Result};
    use crate::files::source::{Folder, base_name};

    impl Location {
        /// A folder, or a GGUF file: told by its name or its first bytes.
        ///
        /// # Errors
        /// `E_IO` where there is neither.
        pub fn of_path(path: &Path) -> Result<Location> {
            if path.is_file() {
                if !looks_like_gguf(path) {
                    let reason = "expected a folder or a GGUF file, found another kind of file".into();
                    return Err(Error::Io { file: base_name(path), reason });
                }
                let (folder, name) = Folder::open_file(path)?;
                return Ok(Location::Gguf(Box::new(folder), name));
            }
            if let (false, Some(name)) = (path.exists(), hub_name(path)) {
                let folder = name.rsplit('/').next().unwrap_or(&name);
                let reason = format!(
                    "there is no such folder. If this is a name on the Hugging Face hub, bring its files here first, with \
                     `hf download {name} --local-dir {folder}`, and name that folder"
                );
                return Err(Error::Io { file: base_name(path), reason });
            }
            Ok(Location::Folder(Box::new(Folder::open(path)?)))
        }
    }

    /// The path as `organisation/name`, where it can be one.
    fn hub_name(path: &Path) -> Option<String> {
        let text = path.to_str()?;
        let plain = |part: &str| {
            let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty() && !part.starts_with('.') && part.chars().all(of_name)
        };
        let parts: Vec<&str> = text.split('/').collect();
        (parts.len() == 2 && parts.iter().all(|part| plain(part))).then(|| text.to_string())
    }

    fn looks_like_gguf(path: &Path) -> bool {
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
            return true;
        }
        let mut magic = [0; 4];
        std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && &magic == b"GGUF"
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_name_of_the_hub_is_told_how_to_get_it() {
            let Err(error) = Location::of_path(Path::new("OpenGVLab/InternVL-14B-224px")) else { panic!("no folder") };
            assert_eq!(error.code(), "E_IO");
            let text = error.to_string();
            assert!(text.contains("hf download OpenGVLab/InternVL-14B-224px --local-dir InternVL-14B-224px"), "{text}");
            for other in ["/no/such", "../models/x", "a/b/c", "nothing-here"] {
                let Err(error) = Location::of_path(Path::new(other)) else { panic!("{other} is there") };
                assert!(!error.to_string().contains("hub"), "{error}");
            }
        }
    }
}
