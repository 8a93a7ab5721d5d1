//! A whole InternVL against what the published modules computed: every key of the `internvl-tiny` fixture.

use crate::common::engine::{Array, Device, GenerateOptions, Mode, Model, PixelValues, PromptInputs, Result, Vision};
use crate::common::{Checks, Expected, TINY, gpu, load};
use pollster::block_on;

const LIMIT: f64 = 1e-8;

fn pixels(array: &Array<f32>) -> PixelValues {
    PixelValues { batch: array.shape[0], height: array.shape[2], width: array.shape[3], values: array.values.clone() }
}

/// The fixture with the model that is to compute it.
struct Fixture {
    e: Expected,
    model: Model,
    checks: Checks,
}

impl Fixture {
    fn near(&self, key: &str, shape: &[usize], found: Vec<f32>) {
        self.checks.close(key, &self.e.f32(key), &Array::new(shape, found), LIMIT);
    }

    fn states_are(&self, key: &str, vision: &Vision) -> Result<()> {
        let shape = [vision.images, vision.rows, self.model.config.text.vision_hidden_size];
        self.near(key, &shape, block_on(self.model.device().read_f32(vision.states))?);
        Ok(())
    }

    fn check_vision(&self) -> Result<()> {
        let input = pixels(&self.e.f32("pixel_values"));
        for (i, states) in block_on(self.model.vision_hidden_states(&input))?.into_iter().enumerate() {
            self.near(&format!("vision.hidden_states.{i}"), &states.shape, states.values);
        }
        self.states_are("vision.last_hidden_state", &block_on(self.model.vision(&input))?)
    }

    fn check_resized(&self) -> Result<()> {
        let resized = pixels(&self.e.f32("resized.pixel_values"));
        self.states_are("resized.last_hidden_state", &block_on(self.model.vision(&resized))?)
    }

    async fn check_match(&self) -> Result<()> {
        let model = &self.model;
        let width = model.config.clip.as_ref().unwrap().clip_embed_dim;
        let input = pixels(&self.e.f32("pixel_values"));
        let vision = model.vision(&input).await?;
        let crossed = model.cross_states(&vision).await?;
        let ids = self.e.i64("text_ids");
        let texts = ids.shape[0];
        let ids: Vec<u32> = ids.values.iter().map(|&id| id as u32).collect();
        let text_embeds = model.embed_text(&ids, texts).await?;
        self.near("encode_text", &[texts, width], text_embeds.clone());
        for (mode, name) in [(Mode::C, "C"), (Mode::G, "G")] {
            let images = model.embed_image(&vision, Some(&crossed), mode).await?;
            self.near(&format!("encode_image.InternVL-{name}"), &[vision.images, width], images.clone());
            let logits = model.logits_per_image(&images, &text_embeds)?;
            self.near(&format!("logits_per_image.InternVL-{name}"), &[vision.images, texts], logits);
        }
        let mut each = Vec::new();
        for values in input.values.chunks(input.values.len() / input.batch) {
            let one = PixelValues { batch: 1, values: values.to_vec(), ..input };
            each.push(model.cross_states(&model.vision(&one).await?).await?);
        }
        self.near("itm.logits", &[vision.images, texts, 2], model.itm(&each, &ids, texts).await?);
        Ok(())
    }

    /// The same ids of pixels and of what cross-attention keeps of them.
    async fn check_generation(&self, key: &str, options: &GenerateOptions) -> Result<()> {
        let model = &self.model;
        let input = pixels(&self.e.f32("pixel_values"));
        let prompts = self.e.i64("generate.input_ids");
        let crossed = model.cross_states(&model.vision(&input).await?).await?;
        let inputs = PromptInputs { crossed: Some(&crossed), input_ids: Some(prompts.clone()), ..Default::default() };
        let of_pixels = PromptInputs { pixel_values: Some(input), input_ids: Some(prompts), ..Default::default() };
        let found = model.generate_from(&inputs, options, &mut |_| true).await?;
        assert_eq!(found, model.generate_from(&of_pixels, options, &mut |_| true).await?);
        let expected = self.e.i64(key);
        assert_eq!(found.len(), expected.shape[0]);
        for (found, expected) in found.iter().zip(expected.values.chunks(expected.shape[1])) {
            let mut ids = vec![1i64];
            ids.extend(found[0].ids.iter().map(|&id| i64::from(id)));
            ids.resize(expected.len(), 0);
            assert_eq!(ids, expected);
        }
        Ok(())
    }
}

fn check(device: &Device) {
    let fixture = Fixture { e: Expected::open("internvl-tiny"), model: load(TINY, device), checks: Checks::default() };
    let checks = &fixture.checks;
    checks.run("vision", || fixture.check_vision());
    checks.run("resized", || fixture.check_resized());
    checks.run("match", || block_on(fixture.check_match()));
    for (key, max_new_tokens, num_beams, min_new_tokens) in
        [("generate.greedy", 10, 1, 0), ("generate.beam5_min8", 14, 5, 8)]
    {
        let options = GenerateOptions { max_new_tokens, num_beams, min_new_tokens, ..Default::default() };
        checks.run(key, || block_on(fixture.check_generation(key, &options)));
    }
    checks.hold("all keys", || fixture.e.all_read());
    fixture.checks.finish();
}

#[test]
fn gpu_agrees() {
    check(&gpu());
}

#[test]
fn the_cpu_executor_agrees() {
    check(&Device::cpu());
}
