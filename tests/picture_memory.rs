//! Pictures where memory is short: whatever there is, decoding ends in a picture or in an error that says so. (An allocation
//! that fails within a decoder ends the whole program, this one too.)

use crate::common::engine::{Error, decode_image};
use crate::common::heap::{alone, growth, within};
use crate::common::path;

/// What is allocated before the size of a picture is known.
const BEGINNING: u64 = 256 << 10;

#[test]
fn too_little_memory_is_an_error() {
    let _alone = alone();
    let entries = std::fs::read_dir(path("tests/data/images/memory")).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    for file in files.chain([path("tests/data/images/photo.jpg")]) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let bytes = std::fs::read(&file).unwrap();
        let decode = || decode_image(name, &bytes, true).map(|picture| (picture.width(), picture.height()));
        let (whole, taken) = growth(decode);
        let whole = whole.unwrap();
        let mut short = 0;
        let mut enough = None;
        for step in 0..64 {
            let room = BEGINNING + step * taken / 16;
            match within(room, decode) {
                Ok(picture) => {
                    assert_eq!(picture, whole, "{name} with {room} bytes");
                    enough.get_or_insert(room);
                }
                Err(Error::HostMemory { what, asked }) => {
                    assert!(what == name && asked > 0 && enough.is_none(), "{name} with {room} bytes: {asked}");
                    short += 1;
                }
                Err(error) => panic!("{name} with {room} bytes: {error}"),
            }
        }
        let enough = enough.expect("four times what is taken is enough");
        println!("{name}: takes {taken} bytes, and is decoded with {enough}");
        assert!(short > 0, "{name}");
    }
}
