//! Host memory whose size a file or an input chooses: it is asked for, and where there is not as much, that is an error.
//! What is small whatever comes in is not asked for, and neither are records of other crates: where those are refused, the
//! program ends.

use crate::error::{Error, Result};

/// An empty vector with room for `count` values; `what` is what needs it, for the message.
///
/// # Errors
/// `E_OOM`.
pub fn room<T>(what: &str, count: usize) -> Result<Vec<T>> {
    let mut room = Vec::new();
    match room.try_reserve_exact(count) {
        Ok(()) => Ok(room),
        Err(_) => Err(no_room::<T>(what, count)),
    }
}

/// `count` zeros.
///
/// # Errors
/// `E_OOM`.
pub fn zeros<T: Clone + Default>(what: &str, count: usize) -> Result<Vec<T>> {
    let mut zeros = room(what, count)?;
    zeros.resize(count, T::default());
    Ok(zeros)
}

/// Makes room for `count` values more.
///
/// # Errors
/// `E_OOM`.
#[cfg(not(target_arch = "wasm32"))]
pub fn more<T>(what: &str, vector: &mut Vec<T>, count: usize) -> Result<()> {
    vector.try_reserve(count).map_err(|_| no_room::<T>(what, count))
}

fn no_room<T>(what: &str, count: usize) -> Error {
    Error::HostMemory { what: what.into(), asked: (count as u64).saturating_mul(size_of::<T>() as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_is_an_error() {
        assert_eq!(zeros::<u16>("it", 3), Ok(vec![0; 3]));
        let error = Err(Error::HostMemory { what: "it".into(), asked: u64::MAX });
        assert_eq!(zeros::<u32>("it", usize::MAX), error);
        let mut vector = vec![1u8];
        let error = Err(Error::HostMemory { what: "it".into(), asked: 1 << 62 });
        assert_eq!(more("it", &mut vector, 1 << 62), error);
        assert_eq!(vector, [1]);
    }
}
