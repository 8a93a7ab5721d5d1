//! Putting shaders together, and how a shader declares what it is bound to.

use bytemuck::Pod;

use crate::device::tensor::{Storage, Tensor};

/// WGSL that kernels share.
pub struct Import {
    /// Its file in `shaders`, without the ending: `shared/floats`.
    pub name: &'static str,
    pub source: &'static str,
}

/// A number of a uniform struct.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    pub name: &'static str,
    /// `u32` or `f32`.
    pub scalar: &'static str,
    pub offset_bytes: usize,
}

/// Parameters of a kernel: a struct that [`uniform`](crate::device::wgsl::uniform) declares.
pub trait Uniform: Pod {
    const FIELDS: &'static [Field];
}

/// Declares a struct of `u32` and `f32` as a kernel's parameters, with the layout that WGSL gives it.
macro_rules! uniform {
    ($vis:vis struct $name:ident { $($(#[$doc:meta])* $field:ident: $scalar:ident,)+ }) => {
        #[repr(C)]
        #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
        $vis struct $name {
            $($(#[$doc])* $vis $field: $scalar,)+
        }

        impl $crate::device::wgsl::Uniform for $name {
            const FIELDS: &'static [$crate::device::wgsl::Field] = &[$($crate::device::wgsl::Field {
                name: stringify!($field),
                scalar: stringify!($scalar),
                offset_bytes: std::mem::offset_of!($name, $field),
            },)+];
        }
    };
}
pub(crate) use uniform;

/// What a shader may do with an operand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    Read,
    /// Declared `read_write` in WGSL.
    Write,
}

/// How a shader declares an operand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Binding {
    Buffer(Access),
    /// `texture_2d<u32>`, whatever a texel holds.
    Texture,
    /// `texture_storage_2d`, which is only written; its texels are those of the storage.
    WrittenTexture(Storage),
}

impl Binding {
    pub fn of(tensor: Tensor, access: Access) -> Binding {
        match (tensor.storage, access) {
            (Storage::Buffer, access) => Binding::Buffer(access),
            (_, Access::Read) => Binding::Texture,
            (texels, Access::Write) => Binding::WrittenTexture(texels),
        }
    }
}

/// Puts a shader together: each imported part once, after the parts that it imports itself, then the text.
///
/// Imports are lines of the form `#import shared/floats`, in front of all code. In `#import shared/y_in_{0}`, `{0}`
/// becomes `buffers` or `textures`, whichever holds operand 0.
///
/// # Errors
/// Unknown parts, circles, imports behind code, and `{n}` of operands that there are not.
pub fn compose(name: &str, source: &str, shared: &[Import], operands: &[Binding]) -> Result<String, String> {
    let mut composer = Composer { shared, operands, done: Vec::new(), open: Vec::new(), text: String::new() };
    composer.add(name, source)?;
    Ok(composer.text)
}

struct Composer<'a> {
    shared: &'a [Import],
    operands: &'a [Binding],
    /// Names of the parts in `text`.
    done: Vec<&'a str>,
    /// Names of the files whose imports are being added.
    open: Vec<&'a str>,
    text: String,
}

impl<'a> Composer<'a> {
    fn add(&mut self, name: &'a str, source: &str) -> Result<(), String> {
        if self.done.contains(&name) {
            return Ok(());
        }
        if self.open.contains(&name) {
            return Err(format!("{} imports itself: {name}", self.open.join(", which imports ")));
        }
        self.open.push(name);
        for import in imports(source).map_err(|line| format!("{name}: {line:?} stands behind code"))? {
            let wanted = self.resolve(import).map_err(|e| format!("{name}: #import {import}: {e}"))?;
            let part = self.shared.iter().find(|part| part.name == wanted);
            let part = part.ok_or_else(|| format!("{name}: #import {import}: there is no part {wanted}"))?;
            self.add(part.name, part.source)?;
        }
        self.open.pop();
        self.done.push(name);
        for line in source.lines().filter(|line| !line.starts_with(IMPORT)) {
            self.text.push_str(line);
            self.text.push('\n');
        }
        Ok(())
    }

    /// The name of the part that `import` means.
    fn resolve(&self, import: &str) -> Result<String, String> {
        let Some((stem, operand)) = import.split_once('{') else { return Ok(import.into()) };
        let operand = operand.strip_suffix('}').and_then(|n| n.parse::<usize>().ok());
        let operand = operand.and_then(|n| self.operands.get(n));
        Ok(match operand.ok_or_else(|| format!("there are {} operands", self.operands.len()))? {
            Binding::Buffer(_) => format!("{stem}buffers"),
            Binding::Texture | Binding::WrittenTexture(_) => format!("{stem}textures"),
        })
    }
}

const IMPORT: &str = "#import ";

/// What a file imports, or the line that stands in the wrong place.
pub(crate) fn imports(source: &str) -> Result<Vec<&str>, &str> {
    let mut found = Vec::new();
    let mut code = false;
    for line in source.lines() {
        match line.strip_prefix(IMPORT) {
            Some(_) if code => return Err(line),
            Some(import) => found.push(import.trim()),
            None => code |= !(line.trim().is_empty() || line.starts_with("//")),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMPORTS: [Import; 7] = [
        Import { name: "a", source: "// Gives: a.\nconst a = 1;\n" },
        Import { name: "b", source: "#import a\nconst b = a;\n" },
        Import { name: "x_in_buffers", source: "#import a\nconst x = 1;\n" },
        Import { name: "x_in_textures", source: "const x = 2;\n" },
        Import { name: "late", source: "const late = 1;\n#import a\n" },
        Import { name: "one", source: "#import two\n" },
        Import { name: "two", source: "#import one\n" },
    ];

    fn put_together(source: &str) -> Result<String, String> {
        let operands = [Binding::Buffer(Access::Write), Binding::Texture, Binding::WrittenTexture(Storage::Pieces)];
        compose("main", source, &IMPORTS, &operands)
    }

    #[test]
    fn parts_come_once_and_after_what_they_import() {
        let text = put_together("// A sum.\n\n#import b\n#import a\n#import x_in_{0}\n\nfn main() {}\n").unwrap();
        let wanted = "// Gives: a.\nconst a = 1;\nconst b = a;\nconst x = 1;\n// A sum.\n\n\nfn main() {}\n";
        assert_eq!(text, wanted);
    }

    #[test]
    fn operands_choose() {
        for (operand, x) in [(0, 1), (1, 2), (2, 2)] {
            let text = put_together(&format!("#import x_in_{{{operand}}}\n")).unwrap();
            assert!(text.contains(&format!("const x = {x};")), "{operand}: {text}");
        }
    }

    #[test]
    fn wrong_imports_are_told() {
        let fault = |source: &str| put_together(source).unwrap_err();
        assert_eq!(fault("#import c\n"), "main: #import c: there is no part c");
        assert_eq!(fault("#import x_in_{3}\n"), "main: #import x_in_{3}: there are 3 operands");
        assert_eq!(fault("#import late\n"), "late: \"#import a\" stands behind code");
        assert_eq!(fault("#import one\n"), "main, which imports one, which imports two imports itself: one");
    }
}
