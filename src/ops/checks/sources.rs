//! The files in `shaders`: each is used, and each says what it needs and gives.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::device::wgsl::imports;
use crate::ops::KERNELS;
use crate::ops::imports::IMPORTS;

/// Names of the files in `shaders`, without the ending.
fn files(folder: &Path, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{prefix}{}", path.file_stem().unwrap().to_str().unwrap());
        match path.is_dir() {
            true => found.extend(files(&path, &format!("{name}/"))),
            false => found.push(name),
        }
    }
    found
}

#[test]
fn every_file_is_a_kernel_or_a_part_that_some_kernel_imports() {
    let kernels: Vec<_> = KERNELS.iter().flat_map(|op| op.kernels).collect();
    let names: BTreeSet<_> = kernels.iter().map(|kernel| kernel.name).collect();
    assert_eq!(names.len(), kernels.len(), "two kernels share a name");
    let parts: BTreeMap<_, _> = IMPORTS.iter().map(|part| (part.name, part.source)).collect();
    let mut used = BTreeSet::new();
    let mut open: Vec<_> = kernels.iter().flat_map(|kernel| variants(kernel.source)).collect();
    while let Some(name) = open.pop() {
        let source = parts.get(&*name).unwrap_or_else(|| panic!("there is no part {name}"));
        if used.insert(name) {
            open.extend(variants(source));
        }
    }
    for part in parts.keys() {
        assert!(used.contains(*part), "no kernel imports {part}");
    }
    for file in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders"), "") {
        let stem = file.rsplit('/').next().unwrap();
        assert!(used.contains(&file) || names.contains(stem), "shaders/{file}.wgsl is neither a kernel nor a part");
    }
}

/// The parts that a file may import.
fn variants(source: &str) -> Vec<String> {
    let names = imports(source).unwrap().into_iter();
    let all = names.flat_map(|import| match import.split_once('{') {
        Some((stem, _)) => vec![format!("{stem}buffers"), format!("{stem}textures")],
        None => vec![import.to_string()],
    });
    all.collect()
}

/// A file uses names of other files only where it imports these, or says that it needs them; and what parts say that
/// they give is what others use.
#[test]
fn files_say_what_they_need_and_give() {
    let mut faults = Vec::new();
    for part in IMPORTS {
        faults.extend(header_faults(part.name, part.source));
    }
    let everyone: BTreeMap<_, _> =
        IMPORTS.iter().flat_map(|part| declared(part.source).into_iter().map(|d| (d, part.name))).collect();
    let kernels = KERNELS.iter().flat_map(|op| op.kernels).map(|kernel| (kernel.name, kernel.source));
    for (name, source) in kernels.chain(IMPORTS.iter().map(|part| (part.name, part.source))) {
        let own = declared(source);
        let needs = listed(source, "Needs");
        let given = given_to(source);
        let local = locals(source);
        for word in words(source).difference(&local).copied() {
            if everyone.contains_key(word) && !own.contains(word) && !needs.contains(word) && !given.contains(word) {
                faults.push(format!("{name} uses {word} of {}, which none of its imports gives", everyone[word]));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What a part's header says against its code.
fn header_faults(name: &str, source: &str) -> Vec<String> {
    let (own, used) = (declared(source), words(source));
    let (needs, gives) = (listed(source, "Needs"), listed(source, "Gives"));
    let mut faults = Vec::new();
    if gives.is_empty() {
        faults.push(format!("{name} does not say what it gives"));
    }
    let passed_on = given_to(source);
    for word in gives.iter().filter(|word| !own.contains(**word) && !passed_on.contains(**word)) {
        faults.push(format!("{name} does not give {word}"));
    }
    for word in needs.iter().filter(|word| own.contains(**word) || !used.contains(**word)) {
        faults.push(format!("{name} does not need {word}"));
    }
    faults
}

/// What the imports of a file give it.
fn given_to(source: &str) -> BTreeSet<&'static str> {
    let imported = variants(source).into_iter().filter_map(|name| IMPORTS.iter().find(|part| part.name == name));
    imported.flat_map(|part| listed(part.source, "Gives")).collect()
}

/// The names in a header's line that begins with `word` and a colon; what stands in brackets explains one.
fn listed<'a>(source: &'a str, word: &str) -> BTreeSet<&'a str> {
    let line = source.lines().find_map(|line| line.strip_prefix("// ")?.strip_prefix(word)?.strip_prefix(": "));
    let line = line.unwrap_or_default().trim_end_matches('.');
    let mut inside = 0;
    let names = line.split(move |c| {
        inside += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && inside == 0
    });
    names.map(|name| name.split('(').next().unwrap_or(name).trim()).filter(|name| !name.is_empty()).collect()
}

/// What a file declares.
fn declared(source: &str) -> BTreeSet<&str> {
    let code = source.lines().filter(|line| !line.starts_with(' '));
    let names = code.filter_map(|line| {
        let line = line.split("//").next()?;
        let of_word = |word: &str| line.strip_prefix(word);
        let variable = || {
            let rest = line.split_once("var")?.1;
            Some(rest.strip_prefix('<').map_or(rest, |rest| rest.split_once('>').map_or("", |(_, rest)| rest)).trim())
        };
        let at = ["fn ", "const ", "override ", "struct "].into_iter().find_map(of_word).or_else(variable)?;
        at.split(|c: char| !c.is_alphanumeric() && c != '_').next()
    });
    names.filter(|name| !name.is_empty()).collect()
}

/// Names of variables, parameters and fields: where a file has such a name, it is not taken for another file's.
fn locals(source: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    for line in source.lines().map(|line| line.split("//").next().unwrap_or_default()) {
        let ends = |c: char| !c.is_alphanumeric() && c != '_';
        for (at, _) in line.match_indices(':') {
            found.extend(line[..at].rsplit(ends).next());
        }
        for word in ["let ", "var "] {
            found.extend(line.split(word).skip(1).filter_map(|rest| rest.split(ends).next()));
        }
    }
    found
}

/// The words of a file's code, but for those behind a point.
fn words(source: &str) -> BTreeSet<&str> {
    let code = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    let mut found = BTreeSet::new();
    for line in code.filter(|line| !line.starts_with('#')) {
        let mut start = None;
        for (i, c) in line.char_indices().chain([(line.len(), ' ')]) {
            match (start, c.is_alphanumeric() || c == '_') {
                (None, true) => start = Some(i),
                (Some(first), false) => {
                    if !line[..first].ends_with('.') {
                        found.insert(&line[first..i]);
                    }
                    start = None;
                }
                _ => {}
            }
        }
    }
    found
}
