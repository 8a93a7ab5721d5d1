//! Who made a GPU.

/// Who made a GPU, as far as the ways that are taken before anything was measured differ.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub enum Maker {
    Amd,
    Intel,
    Nvidia,
    /// Also where a browser does not say.
    #[default]
    Other,
}

impl Maker {
    /// By the number that PCI has for it, or, where there is none, by the adapter's name.
    pub(super) fn of(vendor: u32, name: &str) -> Maker {
        let name = name.to_lowercase();
        let named = |words: &[&str]| words.iter().any(|word| name.contains(word));
        match vendor {
            0x1002 => Maker::Amd,
            0x8086 => Maker::Intel,
            0x10de => Maker::Nvidia,
            0 if named(&["amd", "radeon"]) => Maker::Amd,
            0 if named(&["intel"]) => Maker::Intel,
            0 if named(&["nvidia", "geforce"]) => Maker::Nvidia,
            _ => Maker::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makers_are_told_by_number_and_else_by_name() {
        assert_eq!(Maker::of(0x8086, "Arc"), Maker::Intel);
        assert_eq!(Maker::of(0x10005, "llvmpipe (LLVM 19, 256 bits)"), Maker::Other);
        assert_eq!(Maker::of(0, "NVIDIA GeForce RTX 4090"), Maker::Nvidia);
        assert_eq!(Maker::of(0, "AMD Radeon Pro 5300M"), Maker::Amd);
        assert_eq!(Maker::of(0, ""), Maker::Other);
    }
}
