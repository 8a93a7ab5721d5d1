//! The map in `src/lib.rs` is true: a folder names folders of earlier rows only, no arrows run in a circle inside a
//! folder, and some names stand in one place only.

mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use self::imports::Imports;
use crate::common::path;

/// The table of `src/lib.rs`.
struct Map {
    /// A folder's row, from the lowest.
    rows: BTreeMap<String, usize>,
    /// A name, and the only folder that may have it: one pair a folder.
    places: Vec<(String, String)>,
}

impl Map {
    fn read(text: &str) -> Map {
        let lines = text.lines().skip_while(|line| !line.starts_with("//! | folder |"));
        let table = lines.map_while(|line| line.strip_prefix("//! |"));
        let (mut rows, mut places) = (BTreeMap::new(), Vec::new());
        for (row, line) in table.enumerate() {
            let cells: Vec<Vec<String>> = line.split('|').map(code).collect();
            rows.extend(cells[0].iter().map(|folder| (folder.clone(), row)));
            if let Some(names) = cells.get(2) {
                assert!(names.len().is_multiple_of(2), "not names, each with its place: {names:?}");
                places.extend(names.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())));
            }
        }
        Map { rows, places }
    }

    /// What a file may not name outside the crate.
    fn misplaced(&self, file: &str, named: &[String]) -> Option<String> {
        let named = named.join("::");
        let is = |name: &str| named == name || named.starts_with(&format!("{name}::"));
        let mut places = self.places.iter().filter(|(name, _)| is(name)).peekable();
        let (name, _) = *places.peek()?;
        let allowed =
            places.any(|(_, place)| file.starts_with(&format!("src/{place}/")) || file == format!("src/{place}.rs"));
        (!allowed).then(|| name.clone())
    }
}

/// What stands between backticks.
fn code(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(String::from).collect()
}

/// A file names another one.
#[derive(Clone)]
struct Arrow {
    from: String,
    to: String,
    line: usize,
    path: String,
}

impl std::fmt::Display for Arrow {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}:{} names {} of {}", self.from, self.line, self.path, self.to)
    }
}

/// A crate's files.
struct Tree {
    /// The folder of the crate's root file.
    root: &'static str,
    files: BTreeMap<String, Imports>,
    /// The file of each module.
    modules: BTreeMap<Vec<String>, String>,
}

impl Tree {
    /// Of files, by their path in the repository, below `root`.
    fn new(root: &'static str, texts: impl IntoIterator<Item = (String, String)>) -> Tree {
        let (mut files, mut modules) = (BTreeMap::new(), BTreeMap::new());
        let texts: Vec<(String, String)> = texts.into_iter().collect();
        let of_tests: Vec<Vec<String>> =
            texts.iter().flat_map(|(file, text)| modules_of_tests(root, file, text)).collect();
        let counts = |file: &str| !of_tests.iter().any(|module| module_of(root, file).starts_with(module));
        for (file, text) in texts.into_iter().filter(|(file, _)| counts(file)) {
            modules.insert(module_of(root, &file), file.clone());
            files.insert(file.clone(), Imports::read(&text).unwrap_or_else(|e| panic!("{file}: {e}")));
        }
        Tree { root, files, modules }
    }

    /// A path as written in `module`, from the crate's root; `None` where it leads out of the crate.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Vec<String>> {
        let up = path.iter().take_while(|name| *name == "super").count();
        let (start, rest) = match path[0].as_str() {
            "crate" => (&[][..], &path[1..]),
            "self" => (module, &path[1..]),
            "super" => (&module[..module.len().checked_sub(up)?], &path[up..]),
            first => {
                let child = [module, &[first.to_string()]].concat();
                (self.modules.contains_key(&child).then_some(module)?, path)
            }
        };
        Some([start, rest].concat())
    }

    /// The file that has what a path from the crate's root names: where re-exports lead to.
    fn file_of(&self, path: &[String], depth: usize) -> Option<&str> {
        let known = (0..=path.len()).rev().find(|n| self.modules.contains_key(&path[..*n]))?;
        let (module, rest) = path.split_at(known);
        let file = &self.modules[module];
        if let (Some(name), true) = (rest.first(), depth < 8) {
            let imports = &self.files[file];
            let named = imports
                .alias(name)
                .filter_map(|named| Some([&self.absolute(module, &named.path)?, &rest[1..]].concat()));
            let globs =
                imports.alias("*").filter_map(|named| Some([&self.absolute(module, &named.path)?, rest].concat()));
            let globs = globs.filter(|_| !imports.items.contains(name));
            for target in named.chain(globs).filter(|target| target != path) {
                match self.file_of(&target, depth + 1) {
                    Some(found) if found != file => return Some(found),
                    _ => {}
                }
            }
        }
        Some(file)
    }

    /// What a file names: files of the crate, and paths out of it.
    fn arrows_of(&self, file: &str) -> (Vec<Arrow>, Vec<(usize, Vec<String>)>) {
        let (module, imports) = (module_of(self.root, file), &self.files[file]);
        let (mut arrows, mut outer) = (Vec::new(), Vec::new());
        let mut add = |path: Vec<String>, line: usize| match self.absolute(&module, &path) {
            Some(absolute) => {
                let to = self.file_of(&absolute, 0).unwrap_or_else(|| panic!("{file}:{line}: what is {path:?}?"));
                if to != file {
                    arrows.push(Arrow { from: file.into(), to: to.into(), line, path: path.join("::") });
                }
            }
            None => outer.push((line, path)),
        };
        for (name, named) in &imports.uses {
            let glob = (name == "*").then(|| name.clone());
            add(named.path.iter().cloned().chain(glob).collect(), named.line);
        }
        for named in &imports.paths {
            add(named.path.clone(), named.line);
            for alias in imports.alias(&named.path[0]) {
                add([&alias.path, &named.path[1..]].concat(), named.line);
            }
        }
        (arrows, outer)
    }

    fn arrows(&self) -> Vec<Arrow> {
        self.files.keys().flat_map(|file| self.arrows_of(file).0).collect()
    }

    /// Arrows to the `mod.rs` above, which has the file as a part: a circle, whether or not it names the file. And
    /// circles inside each of some folders.
    fn faults_inside(&self, folders: &BTreeSet<&str>) -> Vec<String> {
        let climbs = |arrow: &Arrow| module_of(self.root, &arrow.from).starts_with(&module_of(self.root, &arrow.to));
        let (climbing, others): (Vec<Arrow>, Vec<Arrow>) = self.arrows().into_iter().partition(climbs);
        let mut parts: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
        for arrow in climbing {
            parts.entry((arrow.from, arrow.to)).or_default().insert(format!("{} (line {})", arrow.path, arrow.line));
        }
        let list = |names: BTreeSet<String>| names.into_iter().collect::<Vec<_>>().join(", ");
        let part = |((from, to), names)| format!("{from} is a part of {to} and names of it {}", list(names));
        let mut faults: Vec<String> = parts.into_iter().map(part).collect();
        faults.extend(folders.iter().flat_map(|folder| circles(folder, &others)));
        faults
    }

    fn folders(&self) -> BTreeSet<&str> {
        self.files.keys().filter_map(|file| Some(file.rsplit_once('/')?.0)).collect()
    }

    /// What is not as the map has it, and circles inside folders.
    fn faults(&self, map: &Map) -> Vec<String> {
        let mut folders = self.folders();
        folders.remove(self.root);
        let mut faults = self.faults_inside(&folders);
        let folder = |file: &str| module_of(self.root, file).into_iter().next();
        let row = |file: &str| map.rows.get(&folder(file)?).copied();
        for file in self.files.keys().filter(|file| folder(file).is_some() && row(file).is_none()) {
            faults.push(format!("{file}: its folder is not in the map"));
        }
        let there: BTreeSet<String> = self.files.keys().filter_map(|file| folder(file)).collect();
        faults.extend(
            map.rows.keys().filter(|f| !there.contains(*f)).map(|f| format!("{f} is in the map and not there")),
        );
        for arrow in self.arrows() {
            let (from, to) = (row(&arrow.from), row(&arrow.to));
            if folder(&arrow.from) != folder(&arrow.to) && from.is_some() && to >= from {
                faults.push(format!("{arrow}: an arrow that runs back"));
            }
        }
        for file in self.files.keys() {
            for (line, path) in self.arrows_of(file).1 {
                let fault = map.misplaced(file, &path).map(|name| format!("{file}:{line}: {name} is not named here"));
                faults.extend(fault);
            }
        }
        faults
    }
}

/// The circles among what is directly in a folder, files and folders: each set of those that reach each other once.
fn circles(folder: &str, arrows: &[Arrow]) -> Vec<String> {
    let node = |file: &str| Some(file.strip_prefix(folder)?.strip_prefix('/')?.split('/').next()?.to_string());
    let mut out: BTreeMap<String, BTreeMap<String, &Arrow>> = BTreeMap::new();
    for arrow in arrows {
        if let (Some(from), Some(to)) = (node(&arrow.from), node(&arrow.to))
            && from != to
        {
            out.entry(from).or_default().entry(to).or_insert(arrow);
        }
    }
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for start in out.keys() {
        let circle = shortest_circle(start, &out);
        let members: BTreeSet<String> = circle.iter().filter_map(|arrow| node(&arrow.from)).collect();
        if !circle.is_empty() && seen.insert(members) {
            let arrows: Vec<String> = circle.iter().map(|arrow| arrow.to_string()).collect();
            faults.push(format!("a circle in {folder}: {}", arrows.join("; ")));
        }
    }
    faults
}

fn shortest_circle<'a>(start: &str, out: &BTreeMap<String, BTreeMap<String, &'a Arrow>>) -> Vec<&'a Arrow> {
    let mut ways: Vec<(&str, Vec<&Arrow>)> = vec![(start, Vec::new())];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for (at, way) in ways {
            for (to, arrow) in out.get(at).into_iter().flatten() {
                let way = [&way[..], &[arrow]].concat();
                if to == start {
                    return way;
                }
                if seen.insert(to.as_str()) {
                    longer.push((to.as_str(), way));
                }
            }
        }
        ways = longer;
    }
    Vec::new()
}

/// The module that a file of the crate is.
fn module_of(root: &str, file: &str) -> Vec<String> {
    let stem = file.strip_prefix(root).and_then(|f| f.strip_prefix('/')).and_then(|f| f.strip_suffix(".rs"));
    let mut names: Vec<String> = stem.expect("a file of the crate").split('/').map(String::from).collect();
    if ["mod", "lib", "main"].contains(&names.last().unwrap().as_str()) {
        names.pop();
    }
    names
}

/// The modules in files of their own that a file has for its tests alone: `#[cfg(test)] mod name;`.
fn modules_of_tests(root: &str, file: &str, text: &str) -> Vec<Vec<String>> {
    let after = text.split("#[cfg(test)]").skip(1).map(str::trim_start);
    let name = |rest: &str| rest.strip_prefix("mod ")?.split_once(';').map(|(name, _)| name.trim().to_string());
    let plain = |name: &String| name.chars().all(|c| c.is_alphanumeric() || c == '_');
    after.filter_map(name).filter(plain).map(|name| [module_of(root, file), vec![name]].concat()).collect()
}

/// Rust files below a folder with their text, but for those below `without`.
fn sources(folder: &str, without: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path(folder)).unwrap() {
        let entry = entry.unwrap();
        let file = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            if file != without {
                found.extend(sources(&file, without));
            }
        } else if Path::new(&file).extension().is_some_and(|e| e == "rs") {
            found.push((file, std::fs::read_to_string(entry.path()).unwrap()));
        }
    }
    found
}

fn report(faults: &[String]) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

fn map() -> Map {
    Map::read(&std::fs::read_to_string(path("src/lib.rs")).unwrap())
}

#[test]
fn the_library_is_as_its_map_has_it() {
    let map = map();
    for name in ["wgpu", "wasm_bindgen", "web_sys", "js_sys", "std::fs"] {
        assert!(map.places.iter().any(|(n, _)| n == name), "the map has no place for {name}");
    }
    let tree = Tree::new("src", sources("src", "src/cli"));
    assert!(tree.arrows().len() > 200, "only {} arrows were found", tree.arrows().len());
    report(&tree.faults(&map));
}

#[test]
fn the_command_line_has_no_circles() {
    let map = map();
    let tree = Tree::new("src/cli", sources("src/cli", ""));
    let mut faults = tree.faults_inside(&tree.folders());
    for file in tree.files.keys() {
        for (line, path) in tree.arrows_of(file).1 {
            let name = map.misplaced(file, &path).filter(|name| name != "std::fs");
            faults.extend(name.map(|name| format!("{file}:{line}: {name} is not named here")));
        }
    }
    report(&faults);
}

/// The checks above see what they are for.
mod checks {
    use super::imports::Imports;
    use super::{Map, Tree};

    const MAP: &str = "
        //! | to | call |
        //! |---|---|
        //! | read | `web` |
        //!
        //! | folder | what | names |
        //! |---|---|---|
        //! | `error` | codes | |
        //! | `device` | tensors | `wgpu` in `device/gpu` |
        //! | `ops` | ops | `std::fs` in `files` |
        //! | `nets`, `files` | formulas | |";

    /// Files that are all well, with `changed` in place of some, or added to them.
    fn tree(changed: &[(&str, &str)]) -> Tree {
        let good = [
            (
                "src/lib.rs",
                "pub mod error; pub mod device; pub mod ops; pub mod nets; pub mod files; pub use error::Error;",
            ),
            ("src/error.rs", "pub struct Error;"),
            ("src/device/mod.rs", "mod tensor; mod gpu; pub use tensor::Tensor; pub fn open() { gpu::open() }"),
            ("src/device/tensor.rs", "use crate::Error; pub struct Tensor; fn f() -> Error { todo!() }"),
            ("src/device/gpu.rs", "use super::tensor::Tensor; pub fn open() { wgpu::Instance::new() }"),
            ("src/ops/mod.rs", "mod add; mod linear; mod rows;"),
            ("src/ops/add.rs", "use super::rows::Rows; use crate::device::{self, Tensor};"),
            ("src/ops/linear.rs", "use super::{add::{self as other, *}}; pub fn linear() {}"),
            ("src/ops/rows.rs", "pub struct Rows;"),
            ("src/nets/mod.rs", "use crate::ops::linear::linear;"),
            ("src/files/mod.rs", "use std::fs; use std::fs::File;"),
        ];
        let kept = good.iter().filter(|(file, _)| changed.iter().all(|(other, _)| other != file));
        Tree::new("src", kept.chain(changed).map(|(file, text)| (file.to_string(), text.to_string())))
    }

    fn map() -> Map {
        Map::read(&MAP.lines().map(|line| format!("{}\n", line.trim_start())).collect::<String>())
    }

    /// Exactly one fault is found, and it has these words.
    fn expect(words: &[&str], changed: &[(&str, &str)]) {
        let faults = tree(changed).faults(&map());
        assert!(
            faults.len() == 1 && words.iter().all(|word| faults[0].contains(word)),
            "wanted {words:?}: {faults:#?}"
        );
    }

    #[test]
    fn of_good_files() {
        assert_eq!(tree(&[]).faults(&map()), [""; 0]);
    }

    #[test]
    fn of_arrows_that_run_back() {
        let back = ["src/error.rs:2", "src/device/tensor.rs", "runs back"];
        expect(&back, &[("src/error.rs", "\nuse crate::device::Tensor;")]);
        expect(&back, &[("src/error.rs", "\nfn f() { g(vec![0..crate::device::Tensor::N]) }")]);
        expect(&back, &[("src/error.rs", "mod inner {\nuse super::super::device::Tensor; }")]);
        expect(&["src/nets/mod.rs", "runs back"], &[("src/files/mod.rs", "use crate::nets;")]);
        // By a name that `use` brought, which is at fault too.
        let faults = tree(&[("src/device/tensor.rs", "use crate::ops;\nfn f() { ops::add::add() }")]).faults(&map());
        assert!(
            faults.iter().any(|fault| fault.contains("tensor.rs:2 names crate::ops::add::add of src/ops/add.rs")),
            "{faults:?}"
        );
        expect(
            &["src/error.rs is a part of src/lib.rs", "crate::version (line 1)"],
            &[("src/error.rs", "fn f() { crate::version() }")],
        );
    }

    #[test]
    fn of_circles() {
        let two = ["a circle in src/ops", "add.rs:1", "rows.rs:1"];
        expect(&two, &[("src/ops/rows.rs", "pub struct Rows; fn f() { super::add::add() }")]);
        let three = ["a circle in src/ops", "add.rs:1", "rows.rs:1", "linear.rs:1"];
        expect(&three, &[("src/ops/rows.rs", "use crate::ops::linear::linear;")]);
        expect(
            &["a circle in src/ops", "one/a.rs", "two/b.rs"],
            &[
                ("src/ops/mod.rs", "mod one; mod two;"),
                ("src/ops/one/mod.rs", "mod a; pub mod c;"),
                ("src/ops/one/a.rs", "use crate::ops::two::d;"),
                ("src/ops/one/c.rs", ""),
                ("src/ops/two/mod.rs", "pub mod b; pub mod d;"),
                ("src/ops/two/b.rs", "use crate::ops::one::c::C;"),
                ("src/ops/two/d.rs", ""),
            ],
        );
        let parent = ["src/ops/add.rs is a part of src/ops/mod.rs and names of it super::Rows (line 1)"];
        expect(&parent, &[("src/ops/add.rs", "use super::Rows;")]);
    }

    #[test]
    fn of_names_in_other_places() {
        expect(&["src/ops/rows.rs:2: wgpu"], &[("src/ops/rows.rs", "pub struct Rows;\nfn f(d: &wgpu::Device) {}")]);
        expect(&["src/device/tensor.rs:1: wgpu"], &[("src/device/tensor.rs", "use ::wgpu::Device;")]);
        expect(&["src/ops/rows.rs:1: std::fs"], &[("src/ops/rows.rs", "use std::{fmt, fs::File};")]);
        expect(&["src/ops/rows.rs:1: std::fs"], &[("src/ops/rows.rs", "fn f() { std::fs::read(p) }")]);
        expect(&["src/web.rs: its folder is not in the map"], &[("src/web.rs", "")]);
    }

    #[test]
    fn of_what_does_not_count() {
        let fine = [
            "// use crate::device::Tensor;\n/// [`crate::device::Tensor`]\nconst TEXT: &str = \"crate::device::Tensor\";",
            "#[cfg(test)]\nmod tests { use crate::device::Tensor; use std::fs; }",
            "#[cfg(test)]\n#[path = \"x.rs\"]\nmod tests;\n#[cfg(test)]\nuse crate::device::Tensor;",
            "pub(crate) struct Error; pub(in crate::device) fn f() { x.device::<u8>(); wgpu_like::f(); x.wgpu.f() }",
        ];
        for text in fine {
            assert_eq!(tree(&[("src/error.rs", text)]).faults(&map()), [""; 0], "{text}");
        }
        let of_tests = [("src/error.rs", "#[cfg(test)]\nmod checks;"), ("src/error/checks.rs", "use crate::ops;")];
        assert_eq!(tree(&of_tests).faults(&map()), [""; 0]);
        expect(&["runs back"], &[("src/error.rs", "mod checks;"), ("src/error/checks.rs", "use crate::ops::add;")]);
        let counted = "#[cfg(not(test))]\nuse crate::device::Tensor;";
        expect(&["runs back"], &[("src/error.rs", counted)]);
        assert!(Imports::read("fn f( {").is_err());
    }
}
