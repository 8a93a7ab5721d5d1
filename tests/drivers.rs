//! The program on the Vulkan drivers of this machine: the first one, and SwiftShader, which has no 16-bit floats,
//! subgroups of 4 lanes and no bounds checks of its own.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::common::engine::{NamedTensor, read_tensor_file, write_tensors};
use crate::common::{EMOJI, Expected, Temp, expected_captions, path, program, skipped};
use serde_json::Value;

/// SwiftShader's library: where `QLLAMA_SWIFTSHADER` says, or beside a Chromium.
fn swiftshader() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("QLLAMA_SWIFTSHADER") {
        let named = PathBuf::from(named);
        assert!(named.is_file(), "QLLAMA_SWIFTSHADER names no file");
        return Some(named);
    }
    let folders =
        ["/usr/lib/chromium", "/usr/lib64/chromium-browser", "/opt/google/chrome", "/opt/chromium.org/chromium"];
    folders.iter().map(|folder| PathBuf::from(folder).join("libvk_swiftshader.so")).find(|file| file.is_file())
}

/// Makes Vulkan's loader find SwiftShader and no other driver: one variable for old loaders, one for new ones.
fn choose(command: &mut Command, temp: &Temp, library: &std::path::Path) {
    let icd = temp.file("swiftshader.json");
    let driver = serde_json::json!({ "library_path": library, "api_version": "1.0.5" });
    let text = serde_json::json!({ "file_format_version": "1.0.0", "ICD": driver });
    std::fs::write(&icd, text.to_string()).unwrap();
    command.env("VK_ICD_FILENAMES", &icd).env("VK_DRIVER_FILES", &icd);
}

/// What a command printed; it must succeed and be silent on standard error.
fn quiet(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success() && stderr.is_empty(), "{command:?}: {status}: {stderr}");
    String::from_utf8(stdout).unwrap()
}

/// Captions of every 80th picture with so many beams, as `expected.json` lists them.
fn check_captions(on: &dyn Fn(&mut Command), num_beams: usize, ids: &str, text: &str) {
    let expected = expected_captions(EMOJI);
    let expected: Vec<&Value> = expected["pictures"].as_array().unwrap().iter().step_by(80).collect();
    let picture = |e: &Value| path(&format!("{EMOJI}/pictures/{}", e["file"].as_str().unwrap()));
    let mut command = program(&["caption", "--json", "--model", path(EMOJI).to_str().unwrap()]);
    command.args(["--num-beams", &num_beams.to_string()]).args(expected.iter().map(|e| picture(e)));
    on(&mut command);
    let printed = quiet(&mut command);
    let found: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!((&found["ids"], &found["text"]), (&expected[ids], &expected[text]), "{}", expected["file"]);
    }
}

/// Ids that `generate` makes of embeddings, masks and vision rows, as the published modules made them.
fn check_generated(on: &dyn Fn(&mut Command), temp: &Temp) {
    let e = Expected::open("qllama-base");
    let (from, to) = (temp.file("in.safetensors"), temp.file("out.safetensors"));
    let (embeds, mask, vision) = (e.f32("query_embeds"), e.i64("attention_mask"), e.f32("vision_hidden_states"));
    let ids = e.i64("input_ids");
    let inputs = [
        NamedTensor::f32("query_embeds", &embeds.shape, &embeds.values),
        NamedTensor::i64("input_ids", &ids.shape, &ids.values),
        NamedTensor::i64("attention_mask", &mask.shape, &mask.values),
        NamedTensor::f32("vision_hidden_states", &vision.shape, &vision.values),
    ];
    write_tensors(&from, &inputs).unwrap();
    let model = path("tests/data/fixtures/qllama-base");
    let cases: [(&str, &[&str]); 2] =
        [("generate.greedy", &[]), ("generate.beam5_min8", &["--num-beams", "5", "--min-new-tokens", "8"])];
    for (key, args) in cases {
        let mut command = program(&["generate", "--inputs", &from, "--outputs", &to, "--max-new-tokens", "12"]);
        command.arg("--model").arg(&model).args(args);
        on(&mut command);
        quiet(&mut command);
        let found = read_tensor_file(&to).unwrap()["sequences"].to_i64().unwrap();
        let expected = e.i64(key);
        let rows = expected.values.chunks(expected.shape[1]);
        for (row, (found, expected)) in found.chunks(found.len() / expected.shape[0]).zip(rows).enumerate() {
            // The fixture has the library's BOS in front, and padding up to its own longest.
            let (new, padding) = expected[1..].split_at(found.len());
            assert!(found == new && padding.iter().all(|id| *id == 0), "{key} {row}: {found:?}, expected {expected:?}");
        }
    }
}

#[test]
fn swiftshader_computes_the_same() {
    let Some(library) = swiftshader() else {
        let why = "no libvk_swiftshader.so: it is in Chromium, or QLLAMA_SWIFTSHADER names it";
        return skipped("swiftshader", why);
    };
    let temp = Temp::new();
    let on = |command: &mut Command| choose(command, &temp, &library);
    let mut list = program(&["--list-adapters"]);
    on(&mut list);
    let list = quiet(&mut list);
    assert!(list.contains("0: SwiftShader") && !list.contains("1: "), "other drivers too: {list}");
    check_captions(&on, 1, "greedy_ids", "caption");
    check_captions(&on, 5, "beam5_ids", "caption_beam5");
    check_generated(&on, &temp);
}

/// Drivers and their layers have things to say; none of it comes through where nobody is logged in at a desktop.
#[test]
fn a_caption_leaves_standard_error_empty() {
    let mut command = program(&["caption", path(&format!("{EMOJI}/pictures/noto-cat.png")).to_str().unwrap()]);
    assert_eq!(quiet(command.env_remove("XDG_RUNTIME_DIR")), "cat\n");
}
