//! What a model learned beside its weights: brought to the device, switched, and taken away again.

use crate::device::tensor::Storage;
use crate::error::{Error, Result, printable};
use crate::files::peft::AdapterWeights;
use crate::model::front::Model;
use crate::model::network::Network;
use crate::model::recovery::Learning;
use crate::nets::lora::Placing;

impl Model {
    /// Uses an adapter from now on, in place of the one before: `strength` 1 as it was learned, between 0 and 1 less of it.
    /// What was trained whole (`modules_to_save`) is used whole at any strength above 0.
    ///
    /// # Errors
    /// `E_INPUT` for another strength, and for a module that the model does not have; `E_SHAPE` naming a tensor that does
    /// not fit; the device's. The adapter before stays in use then.
    pub fn use_adapter(&mut self, weights: &AdapterWeights, strength: f32) -> Result<()> {
        if !(0.0..=1.0).contains(&strength) {
            return Err(Error::Input { reason: format!("a strength of {strength}: it is from 0 to 1") });
        }
        if strength == 0.0 {
            self.drop_adapter();
            return Ok(());
        }
        self.loaded_mut().learn(Some(Learning { weights: weights.clone(), strength, trained: false }))
    }

    /// Uses an adapter that is to be trained: its numbers lie in buffers.
    pub(crate) fn train_adapter(&mut self, weights: AdapterWeights) -> Result<()> {
        self.loaded_mut().learn(Some(Learning { weights, strength: 1.0, trained: true }))
    }

    /// The model as it was before any adapter.
    pub fn drop_adapter(&mut self) {
        self.loaded_mut().learn(None).expect("nothing is brought to the device");
    }
}

impl Network {
    /// Brings an adapter's numbers to the device, in `storage`: buffers where they are to be trained.
    pub(crate) fn adapt(&mut self, mut weights: AdapterWeights, strength: f32, storage: Storage) -> Result<()> {
        let name = weights.name.clone();
        let mut pool = self.device().pool();
        let mut placing = Placing { pool: &mut pool, storage, strength, weights: &mut weights };
        let learned = self.decoder().place_learned(&mut placing)?;
        if let Some(left) = weights.modules.keys().chain(weights.saved.keys()).next() {
            let reason = format!("{}: this model has no {} to adapt", printable(&name), printable(left));
            return Err(Error::Input { reason });
        }
        self.set_learned(learned, Some(pool));
        Ok(())
    }

    /// Takes away what [`Network::adapt`] brought.
    pub(crate) fn forget(&mut self) {
        self.set_learned(Default::default(), None);
    }
}
