//! A whole InternVL against what the published modules computed: every key of the `internvl-tiny` fixture.

use std::rc::Rc;

use crate::common::engine::{
    Array, Device, GenerateInputs, GenerateOptions, Model, Network, PixelValues, Prompt, Result, Vision,
};
use crate::common::{Checks, Expected, TINY, all_ids, generate, gpu, load};
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

    fn network(&self) -> Rc<Network> {
        self.model.network()
    }

    fn states_are(&self, key: &str, vision: &Vision) -> Result<()> {
        let shape = [vision.images, vision.rows, self.network().config.text.vision_hidden_size];
        self.near(key, &shape, block_on(self.network().device().read_f32(vision.states))?);
        Ok(())
    }

    fn check_vision(&self) -> Result<()> {
        let input = pixels(&self.e.f32("pixel_values"));
        for (i, states) in block_on(self.network().vision_hidden_states(&input))?.into_iter().enumerate() {
            self.near(&format!("vision.hidden_states.{i}"), &states.shape, states.values);
        }
        self.states_are("vision.last_hidden_state", &block_on(self.network().vision(&input))?)
    }

    fn check_resized(&self) -> Result<()> {
        let resized = pixels(&self.e.f32("resized.pixel_values"));
        self.states_are("resized.last_hidden_state", &block_on(self.network().vision(&resized))?)
    }

    async fn check_match(&self) -> Result<()> {
        let network = self.network();
        let width = network.config.clip.as_ref().unwrap().clip_embed_dim;
        let input = pixels(&self.e.f32("pixel_values"));
        let vision = network.vision(&input).await?;
        let crossed = network.cross_states(&vision).await?;
        let ids = self.e.i64("text_ids");
        let texts = ids.shape[0];
        let ids: Vec<u32> = ids.values.iter().map(|&id| id as u32).collect();
        let text_embeds = network.embed_text(&ids, texts).await?;
        self.near("encode_text", &[texts, width], text_embeds.clone());
        let (c, g) = (network.embed_images_c(&vision).await?, network.embed_images_g(&vision, &crossed).await?);
        for (images, name) in [(c, "C"), (g, "G")] {
            self.near(&format!("encode_image.InternVL-{name}"), &[vision.images, width], images.clone());
            let logits = network.logits_per_image(&images, &text_embeds)?;
            self.near(&format!("logits_per_image.InternVL-{name}"), &[vision.images, texts], logits);
        }
        let mut each = Vec::new();
        for one in input.each() {
            each.push(network.cross_states(&network.vision(&one).await?).await?);
        }
        self.near(
            "itm.logits",
            &[vision.images, texts, 2],
            network.itm(&each.iter().collect::<Vec<_>>(), &ids, texts).await?,
        );
        Ok(())
    }

    /// The same ids of pixels and of what cross-attention keeps of them.
    async fn check_generation(&self, key: &str, options: &GenerateOptions) -> Result<()> {
        let network = self.network();
        let input = pixels(&self.e.f32("pixel_values"));
        let prompts = self.e.i64("generate.input_ids");
        let crossed = network.cross_states(&network.vision(&input).await?).await?;
        let inputs =
            GenerateInputs { crossed: Some(&crossed.states), input_ids: Some(prompts.clone()), ..Default::default() };
        let of_pixels = GenerateInputs { pixel_values: Some(input), input_ids: Some(prompts), ..Default::default() };
        let found = generate(&self.model, &inputs, options)?;
        assert_eq!(found, generate(&self.model, &of_pixels, options)?);
        let expected = self.e.i64(key);
        assert_eq!(found.len(), expected.shape[0]);
        for (found, expected) in found.iter().zip(expected.values.chunks(expected.shape[1])) {
            let mut ids = vec![1i64];
            ids.extend(found.iter().map(|&id| i64::from(id)));
            ids.resize(expected.len(), 0);
            assert_eq!(ids, expected);
        }
        self.check_batch(&found, options)
    }

    /// The same ids of pictures that are captioned beside others, for the prompt of each.
    fn check_batch(&self, expected: &[Vec<u32>], options: &GenerateOptions) -> Result<()> {
        let input = pixels(&self.e.f32("pixel_values"));
        let prompts = self.e.i64("generate.input_ids");
        for (row, (ids, expected)) in prompts.values.chunks(prompts.shape[1]).zip(expected).enumerate() {
            let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
            let prompt = Prompt { ids: Some(&ids), ..Default::default() };
            let mut batch = self.model.batch(prompt, options, 3)?;
            // Alone, then with others of other ages.
            let mut ended = batch.add(vec![(7, input.each().nth(row).unwrap())])?;
            ended.extend(batch.step()?);
            ended.extend(batch.add(input.each().take(batch.room()).enumerate().collect())?);
            while batch.open() > 0 {
                ended.extend(batch.step()?);
            }
            assert_eq!(ended.len(), 1 + input.batch.min(2));
            let found = ended.into_iter().filter(|(key, _)| *key == 7 || *key == row);
            for (key, generation) in found {
                assert_eq!(&all_ids(generation?), expected, "picture {row}, added as {key}");
            }
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
