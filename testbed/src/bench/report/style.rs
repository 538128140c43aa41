//! How columns and purposes look: told apart by more than colour.
//!
//! Colours are those of Okabe and Ito, which people with any kind of colour vision
//! can tell apart. Each column also has a marker and a line of its own, each
//! purpose a hatching, which a printer without colour keeps.

use super::super::lines::Mode;
use super::super::symbols::Purpose;
use plotters::style::RGBColor;

/// The shape at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// A filled circle.
    Circle,
    /// A square.
    Square,
    /// A triangle.
    Triangle,
    /// A diamond.
    Diamond,
    /// A cross.
    Cross,
    /// A ring.
    Ring,
}

/// How a column looks.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Its colour.
    pub colour: RGBColor,
    /// The shape at its points.
    pub marker: Marker,
    /// Length of dashes and of what is between them; none for a line without.
    pub dash: Option<(u32, u32)>,
}

/// How a column looks.
#[must_use]
pub fn look(mode: Mode) -> Look {
    let look = |colour, marker, dash| Look {
        colour,
        marker,
        dash,
    };
    match mode {
        Mode::Native => look(RGBColor(0, 0, 0), Marker::Circle, None),
        Mode::Untranslated => look(RGBColor(0x56, 0xb4, 0xe9), Marker::Cross, Some((2, 4))),
        Mode::Identity => look(RGBColor(0, 0x9e, 0x73), Marker::Triangle, Some((10, 4))),
        Mode::Nested => look(RGBColor(0, 0x72, 0xb2), Marker::Square, Some((6, 3))),
        Mode::Free => look(RGBColor(0xcc, 0x79, 0xa7), Marker::Ring, Some((2, 2))),
        Mode::Paravirt => look(RGBColor(0xd5, 0x5e, 0), Marker::Diamond, None),
    }
}

/// A part of a bar: what it is, its colour, and its hatching.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// The colour behind the hatching.
    pub colour: RGBColor,
    /// The path of the hatching in a square of 8 by 8.
    pub hatch: &'static str,
}

/// How what is done below EL2 looks.
pub const HOST: Part = Part {
    colour: RGBColor(0xdd, 0xdd, 0xdd),
    hatch: "",
};

/// How what EL2 does for `purpose` looks.
#[must_use]
pub fn part(purpose: Purpose) -> Part {
    let (colour, hatch) = match purpose {
        Purpose::Trap => (RGBColor(0xe6, 0x9f, 0), "M0,8 L8,0"),
        Purpose::Requests => (RGBColor(0x56, 0xb4, 0xe9), "M0,0 L8,8"),
        Purpose::Ledger => (RGBColor(0, 0x9e, 0x73), "M0,4 L8,4"),
        Purpose::Tables => (RGBColor(0xf0, 0xe4, 0x42), "M4,0 L4,8"),
        Purpose::Invalidate => (RGBColor(0, 0x72, 0xb2), "M0,0 L8,8 M0,8 L8,0"),
        Purpose::Return => (RGBColor(0xd5, 0x5e, 0), "M0,4 L8,4 M4,0 L4,8"),
        Purpose::Other => (RGBColor(0xcc, 0x79, 0xa7), "M3,4 L5,4"),
    };
    Part { colour, hatch }
}

/// A colour as the plots write it.
#[must_use]
pub fn hexadecimal(colour: RGBColor) -> String {
    format!("#{:02X}{:02X}{:02X}", colour.0, colour.1, colour.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_columns_look_alike_without_colour() {
        let modes = [
            Mode::Native,
            Mode::Untranslated,
            Mode::Identity,
            Mode::Nested,
            Mode::Free,
            Mode::Paravirt,
        ];
        for (i, one) in modes.iter().enumerate() {
            for other in &modes[..i] {
                assert_ne!(look(*one).marker, look(*other).marker);
            }
        }
        for (i, one) in Purpose::ALL.iter().enumerate() {
            for other in &Purpose::ALL[..i] {
                assert_ne!(part(*one).hatch, part(*other).hatch);
            }
        }
    }
}
