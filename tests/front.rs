//! The crate's front page, as a person who has just found it uses it.

use std::error::Error as _;
use std::ops::ControlFlow;
use std::path::Path;

use crate::common::engine::{CaptionOptions, GenerateOptions, Mode, Model, Picture, Prompt};
use crate::common::{EMOJI, Temp, code, path};
use proc_macro2::{TokenStream, TokenTree};

fn cat() -> Picture {
    Picture::open(path(EMOJI).join("pictures/noto-cat.png")).unwrap()
}

#[test]
fn three_lines() {
    let model = Model::open(path(EMOJI)).unwrap();
    let caption = model.caption(&cat(), &Default::default()).unwrap();
    assert_eq!(caption.text, "cat");
    assert_eq!(caption.end_id, Some(2));

    // Pixels in place of a file, with and without alpha.
    let picture = cat();
    let (width, height) = (picture.width(), picture.height());
    let rgba: Vec<u8> = picture.rgb().chunks(3).flat_map(|p| [p[0], p[1], p[2], 7]).collect();
    for same in [
        Picture::from_rgb(width, height, picture.rgb().to_vec()).unwrap(),
        Picture::from_rgba(width, height, &rgba).unwrap(),
        Picture::from_bytes(&std::fs::read(path(EMOJI).join("pictures/noto-cat.png")).unwrap()).unwrap(),
    ] {
        assert_eq!(same, picture);
    }

    // Text comes in pieces, and can be stopped.
    let mut text = String::new();
    let found = model.caption_with(&picture, &Default::default(), &mut |piece| {
        text.push_str(piece.text);
        ControlFlow::Continue(())
    });
    assert_eq!((found.unwrap(), text), (caption, "cat".into()));
    let stopped = model.caption_with(&picture, &Default::default(), &mut |_| ControlFlow::Break(()));
    assert_eq!(code(stopped), "E_ABORTED");

    // A prompt of one's own, beams, and what stands beside captions.
    let beams = GenerateOptions { num_beams: 5, num_return_sequences: 3, ..Default::default() };
    let prompt = Prompt { picture: Some(&picture), text: Some("English caption:"), ids: None };
    let all = model.generate(prompt, &beams).unwrap();
    assert_eq!(all.len(), 3);
    assert!(all.windows(2).all(|pair| pair[0].score >= pair[1].score), "{all:?}");
    let options = CaptionOptions { generate: beams, ..Default::default() };
    assert_eq!(model.caption(&picture, &options).unwrap().ids, all[0].ids);
    assert_eq!(model.generate("a", &Default::default()).unwrap().len(), 1);

    let (c, g) = (model.embed_picture(&picture, Mode::C).unwrap(), model.embed_picture(&picture, Mode::G).unwrap());
    assert!(c.len() == g.len() && c != g);
    assert_eq!(code(model.embed_picture(&picture, Mode::Itm)), "E_INPUT");
    assert_eq!(model.embed_text("cat").unwrap().len(), c.len());
    let row = &model.match_texts(std::slice::from_ref(&picture), &["cat", "guitar"], Mode::C).unwrap()[0];
    assert!(row[0] > row[1] && (row[0] + row[1] - 1.0).abs() < 1e-6, "{row:?}");
}

/// What is wrong is told with a code, and with what the system said behind it.
#[test]
fn errors_help() {
    let none = Model::open("no/such").err().unwrap();
    assert_eq!(none.code(), "E_IO");
    assert!(none.to_string().contains("hf download no/such"), "{none}");
    let none = Picture::open("/no/such/picture.png").err().unwrap();
    assert_eq!(none.code(), "E_IO");
    let system = none.source().unwrap().source().or(none.source()).unwrap().to_string();
    assert!(system.contains("No such file"), "{system}");
    let temp = Temp::new();
    std::fs::write(temp.file("a.png"), "no picture").unwrap();
    assert_eq!(code(Picture::open(temp.file("a.png"))), "E_IMAGE");
    let none = Model::builder(path(EMOJI)).adapter("no such adapter").load().err().unwrap();
    assert_eq!(none.code(), "E_ADAPTER");
    std::fs::write(temp.file("config.json"), std::fs::read(path(EMOJI).join("config.json")).unwrap()).unwrap();
    std::fs::write(temp.file("pytorch_model.bin.index.json"), "{}").unwrap();
    let none = Model::open(temp.folder()).err().unwrap();
    assert!(none.to_string().contains("save_pretrained"), "{none}");
}

/// The library is not the command line: none of its texts names a flag.
#[test]
fn no_text_of_the_library_names_a_flag() {
    let mut flags = Vec::new();
    let mut folders = vec![path("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let file = entry.unwrap().path();
            if file.is_dir() {
                folders.extend((!file.ends_with("src/cli")).then_some(file));
            } else if file.extension().is_some_and(|e| e == "rs") {
                flags.extend(flags_of(&file, &std::fs::read_to_string(&file).unwrap()));
            }
        }
    }
    assert!(flags.is_empty(), "{flags:#?}");
    assert_eq!(flags_of(Path::new("x.rs"), r#"fn f() { g("use --model DIR"); h("a -- b", "x--"); }"#).len(), 1);
}

/// Literals with a flag, but for other programs' own.
fn flags_of(file: &Path, text: &str) -> Vec<String> {
    fn walk(stream: TokenStream, found: &mut Vec<String>) {
        for tree in stream {
            match tree {
                TokenTree::Group(group) => walk(group.stream(), found),
                TokenTree::Literal(literal) => found.push(literal.to_string()),
                _ => {}
            }
        }
    }
    let mut literals = Vec::new();
    walk(text.parse().unwrap(), &mut literals);
    let has_flag = |text: &String| {
        let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '-');
        words.any(|word| word.starts_with("--") && word.len() > 3 && word != "--local-dir")
    };
    literals.into_iter().filter(has_flag).map(|text| format!("{}: {text}", file.display())).collect()
}
