//! From a failing case to a small one that fails too.

use crate::case::Case;
use crate::state::Plain;

const NOP: u8 = 0x90;

/// Tries smaller cases as long as `fails` says that they fail too; the last
/// one for which it did is the result.
pub(crate) fn shrink(case: Case, mut fails: impl FnMut(&Case) -> bool) -> Case {
    let mut smallest = case;
    loop {
        let candidates = smaller(&smallest);
        match candidates.into_iter().find(|candidate| fails(candidate)) {
            Some(found) => smallest = found,
            None => return smallest,
        }
    }
}

/// Cases a step smaller: no NOPs, one instruction less, a plainer state.
fn smaller(case: &Case) -> Vec<Case> {
    let with_code = |code: Vec<u8>| Case { code, ..case.clone() };
    let instructions = case.instructions();
    let start = |index: usize| (instructions[index].ip() - case.at) as usize;
    let mut candidates = Vec::new();
    for (index, instruction) in instructions.iter().enumerate() {
        let range = start(index)..(start(index) + instruction.len()).min(case.code.len());
        let mut without = case.code.clone();
        without.drain(range.clone());
        candidates.push(with_code(without));
        if case.code[range.clone()].iter().any(|&byte| byte != NOP) {
            // In place, so that branches still meet their targets.
            let mut blank = case.code.clone();
            blank[range].fill(NOP);
            candidates.push(with_code(blank));
        }
    }
    for part in [Plain::FPU, Plain::FLAGS, Plain::GPRS] {
        if !case.plain.has(part) {
            candidates.push(Case { plain: Plain(case.plain.0 | part), ..case.clone() });
        }
    }
    if case.at != crate::layout::CODE {
        candidates.push(Case { at: crate::layout::CODE, ..case.clone() });
    }
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::CODE;
    use crate::state::Bits;

    #[test]
    fn what_does_not_matter_goes() {
        // INC EAX; MUL EBX; DEC EAX
        let code = vec![0xff, 0xc0, 0xf7, 0xe3, 0xff, 0xc8];
        let case = Case { at: CODE + 7, ..Case::new(Bits::B64, 4, code) };
        let small = shrink(case, |case| case.code.windows(2).any(|bytes| bytes == [0xf7, 0xe3]));
        assert_eq!(small.code, [0xf7, 0xe3]);
        assert_eq!((small.plain, small.at), (Plain(7), CODE));
    }
}
