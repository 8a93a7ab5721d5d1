//! placeholder
#[derive(Clone, Copy, Debug)]
pub enum EarlyStopping {
    False,
    True,
    Never,
}
#[derive(Clone)]
pub struct BeamOptions {
    pub num_beams: usize,
    pub num_return_sequences: usize,
    pub length_penalty: f32,
    pub early_stopping: EarlyStopping,
    pub max_new_tokens: usize,
    pub eos_token_ids: Vec<u32>,
}
pub struct BeamSearch;
pub struct Step {
    pub parents: Vec<usize>,
    pub tokens: Vec<u32>,
    pub done: bool,
}
pub struct Hypothesis {
    pub ids: Vec<u32>,
    pub score: f32,
}
impl BeamSearch {
    pub fn new(_: BeamOptions) -> Self {
        unimplemented!()
    }
    pub fn step(&mut self, _: &[Vec<(f32, u32)>]) -> Step {
        unimplemented!()
    }
    pub fn finish(self) -> Vec<Hypothesis> {
        unimplemented!()
    }
    pub fn ids(&self, _: usize) -> &[u32] {
        unimplemented!()
    }
}
