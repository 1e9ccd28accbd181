use super::*;
use crate::testing::{Prng, assert_serializes, hammer, survive_damaged_states};

const EOI: u8 = 0x20;

/// A pair as Linux and most firmware set it up: vectors 0x20 and 0x28.
fn ready(icw4: u8) -> Pic {
    let mut pic = Pic::new();
    for (port, vector, wiring) in [(MASTER, 0x20, 4), (SLAVE, 0x28, 2)] {
        pic.write(port, 0x11);
        pic.write(port + 1, vector);
        pic.write(port + 1, wiring);
        pic.write(port + 1, icw4);
    }
    pic
}

fn pulse(pic: &mut Pic, irq: u8) {
    pic.set_irq(irq, true);
    pic.set_irq(irq, false);
}

fn in_service(pic: &mut Pic, port: u16) -> u8 {
    pic.write(port, 0x0b);
    pic.read(port)
}

fn requested(pic: &mut Pic, port: u16) -> u8 {
    pic.write(port, 0x0a);
    pic.read(port)
}

#[test]
fn nothing_before_initialization() {
    let mut pic = Pic::new();
    pulse(&mut pic, 0);
    assert!(!pic.intr_asserted());
    pic.write(MASTER, 0x11);
    pulse(&mut pic, 0);
    assert!(!pic.intr_asserted(), "no request between ICW1 and ICW4");
}

#[test]
fn an_edge_gives_one_interrupt() {
    let mut pic = ready(1);
    pic.set_irq(4, true);
    assert!(pic.intr_asserted());
    assert_eq!(requested(&mut pic, MASTER), 0x10);
    assert_eq!(pic.acknowledge(), 0x24);
    assert_eq!(in_service(&mut pic, MASTER), 0x10);
    pic.write(MASTER, EOI);
    assert_eq!(in_service(&mut pic, MASTER), 0);
    assert!(!pic.intr_asserted(), "the line is still high, but there was no new edge");
    pic.set_irq(4, false);
    pic.set_irq(4, true);
    assert!(pic.intr_asserted());
}

#[test]
fn a_level_repeats_until_it_falls() {
    let mut pic = ready(1);
    pic.write(ELCR, 0xff);
    assert_eq!(pic.read(ELCR), 0xf8);
    pic.write(ELCR + 1, 0xff);
    assert_eq!(pic.read(ELCR + 1), 0xde);
    pic.set_irq(5, true);
    assert_eq!(pic.acknowledge(), 0x25);
    assert!(!pic.intr_asserted());
    pic.write(MASTER, EOI);
    assert!(pic.intr_asserted());
    pic.set_irq(5, false);
    assert!(!pic.intr_asserted());
    assert_eq!(pic.acknowledge(), 0x27, "spurious");
    assert_eq!(in_service(&mut pic, MASTER), 0, "a spurious interrupt is not in service");
}

#[test]
fn slave_interrupts_come_through_input_2() {
    let mut pic = ready(1);
    pic.set_irq(12, true);
    assert_eq!(requested(&mut pic, MASTER), 0x04);
    assert_eq!(pic.acknowledge(), 0x2c);
    assert_eq!(in_service(&mut pic, MASTER), 0x04);
    assert_eq!(in_service(&mut pic, SLAVE), 0x10);
    pic.set_irq(3, true);
    assert!(!pic.intr_asserted(), "IRQ 3 ranks below the cascade");
    pulse(&mut pic, 1);
    assert_eq!(pic.acknowledge(), 0x21);
    pic.write(MASTER, EOI);
    pic.write(SLAVE, EOI);
    pic.write(MASTER, EOI);
    assert_eq!(pic.acknowledge(), 0x23);
}

#[test]
fn masks_withhold_but_do_not_lose() {
    let mut pic = ready(1);
    pic.write(MASTER + 1, 0xff);
    assert_eq!(pic.read(MASTER + 1), 0xff);
    pulse(&mut pic, 6);
    assert!(!pic.intr_asserted());
    pic.write(MASTER + 1, 0xbf);
    assert_eq!(pic.acknowledge(), 0x26);
}

#[test]
fn auto_eoi_leaves_nothing_in_service() {
    let mut pic = ready(3);
    pulse(&mut pic, 0);
    assert_eq!(pic.acknowledge(), 0x20);
    assert_eq!(in_service(&mut pic, MASTER), 0);
    pic.write(MASTER, 0x80);
    pulse(&mut pic, 0);
    assert_eq!(pic.acknowledge(), 0x20);
    pulse(&mut pic, 0);
    pulse(&mut pic, 1);
    assert_eq!(pic.acknowledge(), 0x21, "rotation made IRQ 0 the lowest");
}

#[test]
fn rotation_and_set_priority() {
    let mut pic = ready(1);
    pulse(&mut pic, 3);
    assert_eq!(pic.acknowledge(), 0x23);
    pic.write(MASTER, 0xa0);
    pulse(&mut pic, 3);
    pulse(&mut pic, 4);
    pulse(&mut pic, 0);
    assert_eq!(pic.acknowledge(), 0x24);
    pic.write(MASTER, 0xe0 | 4);
    assert_eq!(pic.acknowledge(), 0x20);
    pic.write(MASTER, 0x60);
    pic.write(MASTER, 0xc0 | 2);
    pulse(&mut pic, 0);
    assert_eq!(pic.acknowledge(), 0x23);
}

#[test]
fn specific_eoi_ends_just_that_one() {
    let mut pic = ready(1);
    pulse(&mut pic, 5);
    pic.acknowledge();
    pulse(&mut pic, 1);
    pic.acknowledge();
    pic.write(MASTER, 0x60 | 5);
    assert_eq!(in_service(&mut pic, MASTER), 0x02);
}

#[test]
fn special_mask_mode_lets_lower_ones_in() {
    let mut pic = ready(1);
    pulse(&mut pic, 1);
    pic.acknowledge();
    pulse(&mut pic, 6);
    assert!(!pic.intr_asserted());
    pic.write(MASTER, 0x68);
    pic.write(MASTER + 1, 0x02);
    assert_eq!(pic.acknowledge(), 0x26);
    pic.write(MASTER, EOI);
    assert_eq!(in_service(&mut pic, MASTER), 0x02, "a masked one is not ended unspecifically");
    pic.write(MASTER, 0x48);
    pic.write(MASTER, EOI);
    assert_eq!(in_service(&mut pic, MASTER), 0);
}

#[test]
fn special_fully_nested_mode_lets_a_higher_slave_request_in() {
    let mut pic = ready(0x11);
    pulse(&mut pic, 12);
    assert_eq!(pic.acknowledge(), 0x2c);
    pulse(&mut pic, 8);
    assert_eq!(pic.acknowledge(), 0x28);
    let mut plain = ready(1);
    pulse(&mut plain, 12);
    plain.acknowledge();
    pulse(&mut plain, 8);
    assert!(!plain.intr_asserted());
}

#[test]
fn poll_command_is_an_acknowledge() {
    let mut pic = ready(1);
    pic.write(MASTER, 0x0c);
    assert_eq!(pic.read(MASTER), 0);
    pulse(&mut pic, 5);
    pic.write(MASTER, 0x0c);
    assert_eq!(pic.read(MASTER), 0x85);
    assert!(!pic.intr_asserted());
    assert_eq!(in_service(&mut pic, MASTER), 0x20);
}

#[test]
fn single_mode_and_no_icw4_shorten_the_sequence() {
    let mut pic = Pic::new();
    pic.write(MASTER, 0x12);
    pic.write(MASTER + 1, 0x0f);
    pic.write(MASTER + 1, 0xfe);
    assert_eq!(pic.read(MASTER + 1), 0xfe);
    pulse(&mut pic, 0);
    assert_eq!(pic.acknowledge(), 0x08);
}

#[test]
fn icw1_forgets_edges_and_unmasks() {
    let mut pic = ready(1);
    pic.set_irq(4, true);
    pic.write(MASTER + 1, 0xff);
    pic.write(MASTER, 0x11);
    for value in [0x20, 4, 1] {
        pic.write(MASTER + 1, value);
    }
    assert_eq!(pic.read(MASTER + 1), 0);
    assert!(!pic.intr_asserted());
}

#[test]
fn state_moves_to_another_pair() {
    let mut pic = ready(1);
    pulse(&mut pic, 12);
    assert_serializes(&pic.state());
    let mut other = Pic::new();
    other.set_state(pic.state());
    assert_eq!(other.acknowledge(), 0x2c);
    other.reset(VmTime::ZERO);
    assert_eq!(other.state(), PicState::default());
}

#[test]
fn survives_random_use() {
    hammer(&mut Pic::new(), Pic::PORTS, 1);
    let mut pic = ready(1);
    let mut rng = Prng::new(2);
    for _ in 0..150_000 {
        match rng.below(4) {
            0 => pic.set_irq(rng.next() as u8 & 0x1f, rng.below(2) == 0),
            1 => pic.write([0x20, 0x21, 0xa0, 0xa1][rng.below(4) as usize], rng.next() as u8),
            2 => drop(pic.read(0x20)),
            _ if pic.intr_asserted() => drop(pic.acknowledge()),
            _ => assert_eq!(pic.acknowledge() & 7, 7),
        }
    }
}

#[test]
fn survives_damaged_states() {
    survive_damaged_states(Pic::new, Pic::PORTS, Pic::state, Pic::set_state);
}
