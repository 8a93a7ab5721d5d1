//! Everything that can be wrong with the tensors that `forward`, `generate` and `embed` are given: one line that says
//! what was expected and what was found, exit status 1, nothing left behind.

use crate::common::engine::{NamedTensor, TensorType, write_tensors};
use crate::common::{BASE, TINY, Temp, fails, picture, repository};

/// The vocabulary and the width of qllama-base.
const VOCAB: i64 = 320;
const WIDTH: usize = 64;

fn ids(name: &str, shape: &[usize], values: &[i64]) -> NamedTensor {
    NamedTensor::i64(name, shape, values)
}

/// Floats that are all 0.5.
fn halves(name: &str, shape: &[usize]) -> NamedTensor {
    NamedTensor::f32(name, shape, &vec![0.5; shape.iter().product()])
}

fn with_value(mut tensor: NamedTensor, index: usize, value: f32) -> NamedTensor {
    tensor.data[4 * index..][..4].copy_from_slice(&value.to_le_bytes());
    tensor
}

/// A case: tensors, options, code, words of the message.
type Case<'a> = (Vec<NamedTensor>, &'a [&'a str], &'a str, &'a [&'a str]);

/// Runs a subcommand on each case; nothing may be written.
fn tensors_fail(command: &str, model: &str, cases: Vec<Case>) {
    let temp = Temp::new();
    let (inputs, outputs) = (temp.file("in.safetensors"), temp.file("out.safetensors"));
    for (tensors, args, code, words) in cases {
        write_tensors(&inputs, &tensors).unwrap();
        let start = [command, "--inputs", &inputs, "--outputs", &outputs, "--model", model, "--adapter", "cpu"];
        fails(&[&start, args].concat(), code, words);
        assert_eq!(temp.names().len(), 1, "something was left behind: {:?}", temp.names());
    }
}

fn two() -> NamedTensor {
    ids("input_ids", &[1, 2], &[1, 5])
}

/// qllama-base's cache of `rows` rows.
fn past(layers: usize, shape: &[usize]) -> Vec<NamedTensor> {
    let pair = |i| [halves(&format!("past_key.{i}"), shape), halves(&format!("past_value.{i}"), shape)];
    (0..layers).flat_map(pair).collect()
}

#[test]
fn tensors_of_forward() {
    let with = |more: Vec<NamedTensor>| [vec![two()], more].concat();
    let fractional = NamedTensor::f32("input_ids", &[1, 2], &[1.0, 1.5]);
    let mut odd_bool = ids("attention_mask", &[2], &[1, 1]);
    (odd_bool.dtype, odd_bool.shape, odd_bool.data) = (TensorType::BOOL, vec![1, 2], vec![1, 7]);
    let cases: Vec<Case> = vec![
        (vec![ids("input_ids", &[1, 2], &[1, VOCAB])], &[], "E_TOKEN", &["320", "index 1"]),
        (vec![ids("input_ids", &[1, 2], &[-3, 1])], &[], "E_TOKEN", &["-3", "index 0"]),
        (vec![fractional], &[], "E_DTYPE", &["in.safetensors", "input_ids", "F32", "I64, I32 or U32"]),
        (vec![ids("input_ids", &[2], &[1, 2])], &[], "E_INPUT_SHAPE", &["input_ids", "[batch, rows]", "[2]"]),
        (vec![ids("input_ids", &[0, 5], &[])], &[], "E_INPUT", &["empty"]),
        (vec![ids("input_ids", &[2, 0], &[])], &[], "E_INPUT", &["empty"]),
        (vec![halves("query_embeds", &[])], &[], "E_INPUT_SHAPE", &["query_embeds"]),
        (vec![ids("labels", &[1, 2], &[1, 2])], &[], "E_INPUT", &["input_ids", "inputs_embeds"]),
        (with(vec![halves("inputs_embeds", &[1, 2, WIDTH])]), &[], "E_INPUT", &["not both"]),
        (with(vec![halves("query_embeds", &[2, 2, WIDTH])]), &[], "E_INPUT_SHAPE", &["query_embeds", "[1, rows, 64]"]),
        (vec![halves("inputs_embeds", &[1, 2, 63])], &[], "E_INPUT_SHAPE", &["inputs_embeds", "64", "63"]),
        (vec![ids("inputs_embeds", &[1, 1, 1], &[1])], &[], "E_DTYPE", &["inputs_embeds", "I64", "F32, F16 or BF16"]),
        (
            vec![with_value(halves("inputs_embeds", &[1, 2, WIDTH]), 70, f32::NAN)],
            &[],
            "E_NONFINITE",
            &["inputs_embeds", "70"],
        ),
        (
            with(vec![ids("attention_mask", &[1, 3], &[1; 3])]),
            &[],
            "E_INPUT_SHAPE",
            &["attention_mask", "[1, 2]", "[1, 3]"],
        ),
        (with(vec![ids("attention_mask", &[1, 2], &[1, 2])]), &[], "E_INPUT", &["attention_mask", "element 1 is 2"]),
        (with(vec![halves("attention_mask", &[1, 2])]), &[], "E_DTYPE", &["attention_mask", "BOOL"]),
        (with(vec![odd_bool]), &[], "E_INPUT", &["attention_mask", "7"]),
        (
            with(vec![ids("position_ids", &[2, 1], &[0, 1])]),
            &[],
            "E_INPUT_SHAPE",
            &["position_ids", "[1, 2]", "[2, 1]"],
        ),
        (with(vec![ids("position_ids", &[1, 2], &[0, 512])]), &[], "E_CONTEXT", &["513", "512"]),
        (with(vec![ids("position_ids", &[1, 2], &[-1, 0])]), &[], "E_INPUT", &["position_ids", "-1", "511"]),
        (vec![ids("input_ids", &[1, 513], &[1; 513])], &[], "E_CONTEXT", &["513", "512", "max_position_embeddings"]),
        (with(vec![ids("labels", &[1, 3], &[1; 3])]), &["--return", "loss"], "E_INPUT_SHAPE", &["labels", "[1, 2]"]),
        (with(vec![ids("labels", &[1, 2], &[-1, 1])]), &["--return", "loss"], "E_TOKEN", &["-1"]),
    ];
    tensors_fail("forward", &repository(BASE), cases);
}

#[test]
fn pictures_caches_and_masks_of_forward() {
    let with = |more: Vec<NamedTensor>| [vec![two()], more].concat();
    let vision = [1, 3, 3200];
    let cases: Vec<Case> = vec![
        (with(vec![halves("vision_hidden_states", &[1, 3, 3199])]), &[], "E_INPUT_SHAPE", &["3200", "3199"]),
        (
            with(vec![halves("vision_hidden_states", &[3, 3200])]),
            &[],
            "E_INPUT_SHAPE",
            &["vision_hidden_states", "[3, 3200]"],
        ),
        (with(vec![halves("vision_hidden_states", &[2, 3, 3200])]), &[], "E_INPUT_SHAPE", &["batch 1", "2 images"]),
        (
            with(vec![halves("vision_hidden_states", &vision)]),
            &["--repeat-time", "0"],
            "E_INPUT_SHAPE",
            &["repeat_time 0"],
        ),
        (
            with(vec![halves("vision_hidden_states", &vision)]),
            &["--repeat-time", "3"],
            "E_INPUT_SHAPE",
            &["repeat_time 3"],
        ),
        (
            with(vec![with_value(halves("vision_hidden_states", &vision), 5, f32::INFINITY)]),
            &[],
            "E_NONFINITE",
            &["vision_hidden_states", "5"],
        ),
        (with(past(3, &[1, 4, 2, 16])), &[], "E_INPUT_SHAPE", &["past_key_values", "4 layers", "3 layers"]),
        (with(past(4, &[1, 2, 2, 16])), &[], "E_INPUT_SHAPE", &["past_key.0", "[batch, 4, rows, 16]", "[1, 2, 2, 16]"]),
        (with(past(4, &[2, 4, 2, 16])), &[], "E_INPUT_SHAPE", &["past_key_values", "batch 1", "batch 2"]),
        (with(past(4, &[1, 4, 2, 16])[..7].to_vec()), &[], "E_INPUT", &["past_value.3", "past_key.3"]),
        (with(past(4, &[1, 4, 2, 16])[2..].to_vec()), &[], "E_INPUT", &["past_key.0"]),
        (with(past(4, &[1, 4, 511, 16])), &[], "E_CONTEXT", &["513", "512"]),
        (
            with(
                [
                    vec![with_value(past(1, &[1, 4, 2, 16]).remove(0), 9, f32::NAN)],
                    past(4, &[1, 4, 2, 16])[1..].to_vec(),
                ]
                .concat(),
            ),
            &[],
            "E_NONFINITE",
            &["past_key.0", "9"],
        ),
        (with(vec![halves("additive_mask", &[1, 1, 2, 2])]), &[], "E_INPUT", &["additive_mask", "--train"]),
        (
            with(vec![halves("additive_mask", &[1, 1, 2, 3])]),
            &["--train"],
            "E_INPUT_SHAPE",
            &["additive_mask", "[1, 1, 2, 2]", "[1, 1, 2, 3]"],
        ),
        (
            with(vec![with_value(halves("additive_mask", &[1, 1, 2, 2]), 3, f32::NAN)]),
            &["--train"],
            "E_NONFINITE",
            &["additive_mask", "3"],
        ),
        (with(vec![ids("attention_mask", &[1, 2], &[1, 1])]), &["--train"], "E_INPUT", &["attention_mask"]),
        (with(past(4, &[1, 4, 2, 16])), &["--train"], "E_INPUT", &["past_key", "--train"]),
    ];
    tensors_fail("forward", &repository(BASE), cases);
}

#[test]
fn tensors_of_generate() {
    let with = |more: Vec<NamedTensor>| [vec![two()], more].concat();
    let vision = halves("vision_hidden_states", &[1, 3, 3200]);
    let cases: Vec<Case> = vec![
        (vec![], &[], "E_INPUT", &["input_ids", "inputs_embeds"]),
        (vec![vision.clone()], &[], "E_INPUT", &["input_ids", "inputs_embeds"]),
        (vec![ids("input_ids", &[1, 1], &[VOCAB])], &[], "E_TOKEN", &["320"]),
        (vec![ids("input_ids", &[0, 1], &[])], &[], "E_INPUT", &["empty"]),
        (with(vec![halves("inputs_embeds", &[1, 2, WIDTH])]), &[], "E_INPUT", &["not both"]),
        (with(vec![halves("query_embeds", &[1, 2, 63])]), &[], "E_INPUT_SHAPE", &["query_embeds", "64", "63"]),
        (
            with(vec![ids("attention_mask", &[1, 3], &[1; 3])]),
            &[],
            "E_INPUT_SHAPE",
            &["attention_mask", "[1, 2]", "[1, 3]"],
        ),
        (with(vec![ids("attention_mask", &[1, 2], &[0, -1])]), &[], "E_INPUT", &["attention_mask", "-1"]),
        (vec![two(), halves("vision_hidden_states", &[3, 3, 3200])], &[], "E_INPUT_SHAPE", &["3 images"]),
        (with(vec![]), &["--eos-token-id", "320"], "E_TOKEN", &["320"]),
        (with(vec![]), &["--max-new-tokens", "512"], "E_CONTEXT", &["513", "512"]),
        (with(vec![]), &["--repeat-time", "2"], "E_INPUT", &["--repeat-time"]),
        (with(vec![halves("pixel_values", &[1, 3, 28, 28])]), &[], "E_STATE", &["InternViT"]),
        (
            vec![with_value(halves("inputs_embeds", &[1, 2, WIDTH]), 1, f32::NEG_INFINITY)],
            &[],
            "E_NONFINITE",
            &["inputs_embeds", "1"],
        ),
    ];
    tensors_fail("generate", &repository(BASE), cases);

    let pixels = halves("pixel_values", &[1, 3, 28, 28]);
    let picture = picture();
    let of_picture = ["--image", picture.as_str()];
    let cases: Vec<Case> = vec![
        (with(vec![halves("pixel_values", &[1, 3, 28, 29])]), &[], "E_INPUT_SHAPE", &["pixel_values", "29"]),
        (with(vec![halves("pixel_values", &[3, 28, 28])]), &[], "E_INPUT_SHAPE", &["pixel_values", "[3, 28, 28]"]),
        (with(vec![halves("pixel_values", &[0, 3, 28, 28])]), &[], "E_INPUT_SHAPE", &["pixel_values"]),
        (
            with(vec![halves("pixel_values", &[2, 3, 28, 28])]),
            &[],
            "E_INPUT_SHAPE",
            &["pixel_values", "batch 1", "2 images"],
        ),
        (with(vec![with_value(pixels.clone(), 9, f32::NAN)]), &[], "E_NONFINITE", &["pixel_values", "9"]),
        (with(vec![pixels.clone(), halves("query_embeds", &[1, 2, 48])]), &[], "E_INPUT", &["query_embeds", "picture"]),
        (
            with(vec![pixels.clone(), halves("vision_hidden_states", &[1, 5, 160])]),
            &[],
            "E_INPUT",
            &["vision_hidden_states", "pixel_values"],
        ),
        (with(vec![pixels.clone()]), &of_picture, "E_INPUT", &["--image", "pixel_values"]),
    ];
    tensors_fail("generate", &repository(TINY), cases);
}

#[test]
fn tensors_of_embed() {
    let cases: Vec<Case> = vec![
        (vec![two()], &[], "E_INPUT", &["in.safetensors", "pixel_values", "text_ids"]),
        (vec![ids("text_ids", &[3], &[1, 2, 3])], &[], "E_INPUT_SHAPE", &["text_ids", "[texts, rows]", "[3]"]),
        (vec![ids("text_ids", &[1, 2], &[1, -2])], &[], "E_TOKEN", &["-2"]),
        (vec![ids("text_ids", &[0, 2], &[])], &[], "E_INPUT_SHAPE", &["text_ids"]),
        (vec![halves("text_ids", &[1, 2])], &[], "E_DTYPE", &["text_ids", "F32"]),
        (vec![ids("text_ids", &[1, 5000], &[1; 5000])], &[], "E_CONTEXT", &["5000"]),
        (vec![halves("pixel_values", &[1, 4, 28, 28])], &[], "E_INPUT_SHAPE", &["pixel_values", "[1, 4, 28, 28]"]),
        (vec![halves("pixel_values", &[1, 3, 13, 28])], &[], "E_INPUT_SHAPE", &["pixel_values", "multiples of"]),
    ];
    tensors_fail("embed", &repository(TINY), cases);
}
