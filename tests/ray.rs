//! `examples/ray_captions.py` on a Ray cluster of two nodes on this machine, one of which is killed in the middle.

use std::process::Command;

use crate::common::{EMOJI, Temp, path, skipped};

/// Pictures that are captioned.
const PICTURES: usize = 60;

#[test]
fn a_node_dies_and_every_picture_is_captioned_once() {
    let python = std::env::var("QLLAMA_PYTHON").unwrap_or_else(|_| "python3".into());
    let there = Command::new(&python).args(["-c", "import ray.data, pyarrow.parquet"]).output();
    if !there.is_ok_and(|output| output.status.success()) {
        return skipped("ray", "no Ray: `pip install 'ray[data]'`, and QLLAMA_PYTHON names that Python");
    }
    let temp = Temp::new();
    std::fs::create_dir(temp.file("pictures")).unwrap();
    let mut pictures: Vec<_> =
        std::fs::read_dir(path(EMOJI).join("pictures")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pictures.sort();
    for picture in &pictures[..PICTURES] {
        std::fs::copy(picture, temp.path().join("pictures").join(picture.file_name().unwrap())).unwrap();
    }
    let output = Command::new(&python)
        .arg(path("tests/ray_cluster.py"))
        .arg(env!("CARGO_BIN_EXE_qllama"))
        .args([temp.file("pictures").into(), path("examples"), temp.file("captions").into()])
        .output()
        .unwrap();
    let (out, messages) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{messages}");
    let expected = format!("{PICTURES} pictures, 0 missing, 0 twice; node killed after [");
    assert!(out.contains(&expected), "{out}\n{messages}");
}
