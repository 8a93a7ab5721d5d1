//! `qllama evaluate`: figures of the demo model, beside what Python's packages and plain counting make of the same.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::common::{EMOJI, Temp, expected_captions, fails, path, printed, repository};

fn data(name: &str) -> String {
    repository(&format!("tests/data/captions/{name}"))
}

fn pictures() -> String {
    repository(&format!("{EMOJI}/pictures"))
}

fn read(file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn near(found: &Value, expected: &Value) {
    let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
    assert!((found - expected).abs() < 1e-6, "{found} and {expected}");
}

/// `tests/data/captions/expected.json` has the scores of pycocoevalcap 1.2, with its own tokenizer.
#[test]
fn scores_of_captions_are_pycocoevalcaps() {
    let expected = read(&data("expected.json"));
    let score = |results: &str| -> Value {
        let args = ["evaluate", "captions", "--annotations", &data("annotations.json"), "--images", &pictures()];
        serde_json::from_str(&printed(&[&args[..], &["--results", results, "--json"]].concat())).unwrap()
    };
    let found = score(&data("longer.json"));
    near(&found["bleu4"], &expected["longer"]["bleu4"]);
    near(&found["cider_d"], &expected["longer"]["cider_d"]);
    assert_eq!(found["pictures"], 40);

    // Those that the model writes now: the captions of the published table are longer, so its least length is set aside.
    let temp = Temp::new();
    let output = temp.file("results.json");
    let text = printed(&[
        "evaluate",
        "captions",
        "--annotations",
        &data("annotations.json"),
        "--images",
        &pictures(),
        "--output",
        &output,
        "--num-beams",
        "1",
        "--min-new-tokens",
        "0",
        "--json",
    ]);
    let found: Value = serde_json::from_str(&text).unwrap();
    near(&found["bleu4"], &expected["demo"]["bleu4"]);
    near(&found["cider_d"], &expected["demo"]["cider_d"]);
    let captions = expected_captions("models/emoji-tiny-w4");
    let captions: BTreeMap<&str, &str> = captions["pictures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["file"].as_str().unwrap(), e["caption"].as_str().unwrap()))
        .collect();
    let annotations = read(&data("annotations.json"));
    let results = read(&output);
    assert_eq!(results.as_array().unwrap().len(), 40);
    for (result, image) in results.as_array().unwrap().iter().zip(annotations["images"].as_array().unwrap()) {
        let expected = captions[image["file_name"].as_str().unwrap()];
        assert_eq!(*result, json!({ "image_id": image["id"], "caption": expected }));
    }
    assert_eq!(score(&output)["cider_d"], found["cider_d"]);
}

/// The first of the annotations, as a list; pictures of one name would be each other's.
fn few(temp: &Temp, count: usize) -> (String, Vec<(String, String)>) {
    let annotations = read(&data("annotations.json"));
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for image in annotations["images"].as_array().unwrap() {
        let texts = annotations["annotations"].as_array().unwrap();
        let text = texts.iter().find(|text| text["image_id"] == image["id"]).unwrap()["caption"].as_str().unwrap();
        if found.len() < count {
            found.entry(text.into()).or_insert(image["file_name"].as_str().unwrap().into());
        }
    }
    let list: Vec<Value> = found.iter().map(|(text, image)| json!({ "image": image, "caption": text })).collect();
    let file = temp.file("few.json");
    std::fs::write(&file, Value::from(list).to_string()).unwrap();
    (file, found.into_iter().map(|(text, image)| (image, text)).collect())
}

/// Recall by `qllama match`, whose rows are in the order of the same products.
#[test]
fn recall_is_what_counting_gives() {
    let temp = Temp::new();
    let (file, pairs) = few(&temp, 12);
    for mode in ["c", "g"] {
        let found: Value = serde_json::from_str(&printed(&[
            "evaluate",
            "retrieval",
            "--annotations",
            &file,
            "--images",
            &pictures(),
            "--mode",
            mode,
            "--json",
        ]))
        .unwrap();
        let files: Vec<String> = pairs.iter().map(|(image, _)| format!("{}/{image}", pictures())).collect();
        let mut args = vec!["match", "--mode", mode, "--json", "--image"];
        args.extend(files.iter().map(String::as_str));
        args.push("--text");
        args.extend(pairs.iter().map(|(_, text)| text.as_str()));
        let rows: Vec<Value> = printed(&args).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let score = |picture: usize, text: usize| rows[picture]["probabilities"][text].as_f64().unwrap();
        let n = pairs.len();
        for (at, k) in [1, 5, 10].into_iter().enumerate() {
            let better = |picture: usize| (0..n).filter(|&t| score(picture, t) > score(picture, picture)).count();
            let share = (0..n).filter(|&picture| better(picture) < k).count() as f64 / n as f64 * 100.0;
            near(&found["picture_to_text"][at], &share.into());
        }
        let first = found["text_to_picture"][0].as_f64().unwrap();
        assert!(first > 50.0 && found["text_to_picture"][2].as_f64().unwrap() >= first, "{found}");
    }
    let text = printed(&[
        "evaluate",
        "retrieval",
        "--annotations",
        &file,
        "--images",
        &pictures(),
        "--mode",
        "itm",
        "--rerank",
        "4",
    ]);
    assert!(text.starts_with("12 pictures, 12 texts\n") && text.contains("text to picture"), "{text}");
}

#[test]
fn classes_are_named_without_training() {
    let temp = Temp::new();
    for (class, name) in [("cat", "noto-cat.png"), ("dog", "noto-dog.png"), ("pizza", "noto-pizza.png")] {
        std::fs::create_dir(temp.file(class)).unwrap();
        std::fs::copy(path(EMOJI).join("pictures").join(name), temp.file(&format!("{class}/{name}"))).unwrap();
    }
    let templates = Temp::new();
    templates
        .write("t.txt", "{}\nthe {}\n")
        .write("bad.txt", "a\n")
        .write("names.json", r#"{"cat": "dog", "dog": "cat"}"#);
    let run = |more: &[&str]| -> Value {
        let args = ["evaluate", "classify", "--images", temp.folder(), "--json"];
        serde_json::from_str(&printed(&[&args[..], more].concat())).unwrap()
    };
    let found = run(&["--templates", &templates.file("t.txt")]);
    assert_eq!(found, json!({ "pictures": 3, "classes": 3, "templates": 2, "top1": 100.0, "top5": 100.0 }));
    assert_eq!(run(&[])["templates"], 80);
    let refuse = |more: &[&str], word: &str| {
        fails(&[&["evaluate", "classify", "--images", temp.folder()], more].concat(), "E_INPUT", &[word]);
    };
    refuse(&["--templates", &templates.file("bad.txt")], "line 1");
    refuse(&["--classes", &templates.file("names.json")], "name of pizza");
    fails(&["evaluate", "classify", "--images", templates.folder()], "E_INPUT", &["one for each class"]);
}

#[test]
fn data_sets_that_are_wrong_are_refused() {
    let temp = Temp::new();
    temp.write("a.json", "{}").write("b.json", "nothing").write("c.json", r#"[{"image": "no.png", "caption": "a"}]"#);
    temp.write("d.json", r#"{"images": [{"id": 1, "file_name": "noto-cat.png"}], "annotations": []}"#);
    temp.write("r.json", r#"[{"image_id": 1, "caption": "a cat"}]"#).write("e.json", "[]");
    let refuse = |file: &str, word: &str| {
        let file = temp.file(file);
        fails(&["evaluate", "captions", "--annotations", &file, "--images", &pictures()], "E_INPUT", &[word]);
    };
    refuse("a.json", "COCO");
    refuse("b.json", "JSON");
    refuse("c.json", "no.png");
    refuse("d.json", "picture 1 has no text");
    refuse("e.json", "no pictures");
    let (annotations, results) = (data("annotations.json"), temp.file("r.json"));
    let args = ["evaluate", "captions", "--annotations", &annotations, "--images", &pictures(), "--results", &results];
    fails(&args, "E_INPUT", &["no caption of picture 2"]);
}
