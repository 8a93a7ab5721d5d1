//! A whole InternVL against what the published modules computed: every key of the `internvl-tiny` fixture.

mod common;

use common::{Expected, close, gpu, load};
use pollster::block_on;
use qllama::Device;
use qllama::device::Array;
use qllama::generate::prompt::PromptInputs;
use qllama::generate::session::GenerateOptions;
use qllama::model::{Mode, Model, PixelValues};

const LIMIT: f64 = 1e-8;

fn pixels(array: &Array<f32>) -> PixelValues {
    PixelValues { batch: array.shape[0], height: array.shape[2], width: array.shape[3], values: array.values.clone() }
}

async fn check(device: &Device) {
    let e = Expected::open("internvl-tiny");
    let model: Model = load("tests/data/fixtures/internvl-tiny", device);
    let near = |key: &str, shape: &[usize], found: Vec<f32>| {
        close(key, &e.f32(key), &Array::new(shape, found), LIMIT);
    };
    let width = model.config.clip.as_ref().unwrap().clip_embed_dim;

    let input = pixels(&e.f32("pixel_values"));
    for (i, states) in model.vision_hidden_states(&input).await.unwrap().into_iter().enumerate() {
        near(&format!("vision.hidden_states.{i}"), &states.shape, states.values);
    }
    let vision = model.vision(&input).await.unwrap();
    let shape = [vision.images, vision.rows, model.config.text.vision_hidden_size];
    near("vision.last_hidden_state", &shape, model.device().read_f32(vision.states).await.unwrap());
    let resized = model.vision(&pixels(&e.f32("resized.pixel_values"))).await.unwrap();
    let shape = [resized.images, resized.rows, model.config.text.vision_hidden_size];
    near("resized.last_hidden_state", &shape, device.read_f32(resized.states).await.unwrap());

    let crossed = model.cross_states(&vision).await.unwrap();
    let ids = e.i64("text_ids");
    let texts = ids.shape[0];
    let ids: Vec<u32> = ids.values.iter().map(|&id| id as u32).collect();
    let text_embeds = model.embed_text(&ids, texts).await.unwrap();
    near("encode_text", &[texts, width], text_embeds.clone());
    for (mode, name) in [(Mode::C, "C"), (Mode::G, "G")] {
        let images = model.embed_image(&vision, Some(&crossed), mode).await.unwrap();
        near(&format!("encode_image.InternVL-{name}"), &[vision.images, width], images.clone());
        let logits = model.logits_per_image(&images, &text_embeds).unwrap();
        near(&format!("logits_per_image.InternVL-{name}"), &[vision.images, texts], logits);
    }
    let mut each = Vec::new();
    for values in input.values.chunks(input.values.len() / input.batch) {
        let one = PixelValues { batch: 1, values: values.to_vec(), ..input };
        each.push(model.cross_states(&model.vision(&one).await.unwrap()).await.unwrap());
    }
    near("itm.logits", &[vision.images, texts, 2], model.itm(&each, &ids, texts).await.unwrap());

    let prompts = e.i64("generate.input_ids");
    let inputs = PromptInputs { crossed: Some(&crossed), input_ids: Some(prompts.clone()), ..Default::default() };
    let of_pixels = PromptInputs { pixel_values: Some(input), input_ids: Some(prompts), ..Default::default() };
    for (key, max_new_tokens, num_beams, min_new_tokens) in
        [("generate.greedy", 10, 1, 0), ("generate.beam5_min8", 14, 5, 8)]
    {
        let options = GenerateOptions { max_new_tokens, num_beams, min_new_tokens, ..Default::default() };
        let found = model.generate_from(&inputs, &options, &mut |_| true).await.unwrap();
        assert_eq!(found, model.generate_from(&of_pixels, &options, &mut |_| true).await.unwrap(), "{key}");
        let expected = e.i64(key);
        for (found, expected) in found.iter().zip(expected.values.chunks(expected.shape[1])) {
            let mut ids = vec![1i64];
            ids.extend(found[0].ids.iter().map(|&id| i64::from(id)));
            ids.resize(expected.len(), 0);
            assert_eq!(ids, expected, "{key}");
        }
    }
    e.all_read();
}

#[test]
fn gpu_agrees() {
    block_on(check(&gpu()));
}

#[test]
fn the_cpu_executor_agrees() {
    block_on(check(&Device::cpu()));
}
