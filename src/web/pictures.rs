//! Pictures to pixels in an instance of the engine of its own, which `web/pictures.js` makes for each and lets go: a
//! decoder that stops, or takes much memory, does so to that instance alone. Numbers and bytes cross, as such an instance
//! has nothing of wasm-bindgen's: room for a file or for raw pixels, the work, and its answer.

use std::cell::RefCell;

use crate::error::Result;
use crate::image::{Picture, Preprocessor};

thread_local! {
    /// What came in, then what goes out.
    static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Where `bytes` bytes may be written, or 0 where there is no memory for them.
#[unsafe(no_mangle)]
extern "C" fn picture_room(bytes: usize) -> usize {
    BYTES.with_borrow_mut(|room| {
        if room.try_reserve_exact(bytes).is_err() {
            return 0;
        }
        room.resize(bytes, 0);
        room.as_mut_ptr() as usize
    })
}

/// Decodes the file that was written, or takes `width` by `height` pixels of four bytes where they are above 0, and cuts
/// the square out that the model takes. Whether it went well: then the answer is `crop` by `crop` pixels of three bytes,
/// else the error's code and, behind a line's end, its message.
#[unsafe(no_mangle)]
extern "C" fn picture_prepare(width: u32, height: u32, short_side: u32, crop: u32) -> bool {
    let given = BYTES.take();
    let answer = prepare(given, width, height, short_side, crop);
    let went = answer.is_ok();
    BYTES.set(answer.unwrap_or_else(|error| format!("{}\n{error}", error.code()).into()));
    went
}

fn prepare(given: Vec<u8>, width: u32, height: u32, short_side: u32, crop: u32) -> Result<Vec<u8>> {
    let picture = match (width, height) {
        (0, 0) => Picture::from_bytes(&given)?,
        _ => Picture::from_rgba(width, height, &given)?,
    };
    // What came in is not needed any more, and may be large.
    drop(given);
    Ok(Preprocessor::squares(short_side, crop)?.square(&picture))
}

/// Where the answer is.
#[unsafe(no_mangle)]
extern "C" fn picture_answer() -> usize {
    BYTES.with_borrow(|bytes| bytes.as_ptr() as usize)
}

/// How many bytes it has.
#[unsafe(no_mangle)]
extern "C" fn picture_answer_length() -> usize {
    BYTES.with_borrow(Vec::len)
}
