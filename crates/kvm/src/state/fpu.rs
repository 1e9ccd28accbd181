//! x87 and vector registers: KVM exchanges them as an XSAVE area in standard
//! format, laid out as on the host.

use x86::xsave::{self, Form, MXCSR_INIT};
use x86::{FpuState, Xcr0};

use super::Format;

const FORM: Form = Form { wide: true, mode64: true };
const WORDS: usize = 1024;

/// The components that the model offers, with x87 and SSE in any case.
fn components(format: &Format) -> Xcr0 {
    format.xcr0 | Xcr0::X87 | Xcr0::SSE
}

/// The area that holds `state`.
pub(super) fn put(state: &FpuState, format: &Format) -> [u32; WORDS] {
    let mut bytes = [0; WORDS * 4];
    xsave::save(state, &format.xsave, components(format), FORM, &mut bytes);
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32::from_le_bytes(bytes.try_into().unwrap_or_default());
    }
    words
}

/// The registers in an area.
pub(super) fn get(words: &[u32; WORDS], format: &Format) -> FpuState {
    let mut bytes = [0; WORDS * 4];
    for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let mut state = FpuState::RESET;
    let all = components(format);
    let known = xsave::Header::parse(&bytes).xstate_bv & all.bits();
    // Components that the model does not offer are of no concern.
    bytes[512..520].copy_from_slice(&known.to_le_bytes());
    if xsave::restore(&mut state, &format.xsave, all, all, FORM, &bytes).is_err() {
        // Only a reserved bit of MXCSR can be wrong, which no processor lets in.
        state.mxcsr = MXCSR_INIT;
    }
    state
}

#[cfg(test)]
mod tests {
    use x86::cpuid::Features;
    use x86::xsave::XsaveLayout;

    use super::*;

    #[test]
    fn registers_survive_the_way_there_and_back() {
        let format = Format {
            xsave: XsaveLayout::INTEL,
            xcr0: Features::default().xcr0() | Xcr0::AVX | Xcr0::AVX512 | Xcr0::PKRU,
            sregs2: true,
            vendor: x86::cpuid::Vendor::Intel,
            msrs: Vec::new(),
            local_apic: false,
            eoi_flag: false,
        };
        let mut state = FpuState::RESET;
        assert_eq!(get(&put(&state, &format), &format), state);
        state.x87.fcw = 0x27f;
        state.x87.st[3][9] = 0x40;
        state.x87.fip = 0xffff_8000_1234_5678;
        state.mxcsr = 0x1f00;
        state.pkru = 0x5555_5554;
        state.k[7] = 9;
        for (index, zmm) in state.zmm.iter_mut().enumerate() {
            zmm.0 = [index as u8 + 1; 64];
        }
        assert_eq!(get(&put(&state, &format), &format), state);
    }
}
