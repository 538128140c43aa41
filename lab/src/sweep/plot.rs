//! A map as a picture: SVG, readable in print and by colour-blind people. Purple and
//! orange say who is better, and each cell says it in words too; the thick line is
//! where it changes.

use super::grid::Grid;
use super::store::{Outcome, Store};
use crate::score::{Comparison, Criterion};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;
use thiserror::Error;

/// Why there is no picture.
#[derive(Debug, Error)]
#[error("{file}: {message}")]
pub struct PlotError {
    file: String,
    message: String,
}

const CELL: (i32, i32) = (88, 46);
const LEFT: i32 = 130;
const TOP: i32 = 104;
const BELOW: i32 = 84;

/// The ends of the scale, and its middle: a scale of ColorBrewer's that is safe for
/// the colour-blind and for photocopies.
const PARAVIRT: (u8, u8, u8) = (84, 39, 136);
const NESTED: (u8, u8, u8) = (179, 88, 6);
const EVEN: (u8, u8, u8) = (247, 247, 247);

/// Twice as good is as strong as the colour gets at half of the scale.
fn colour(ratio: f64) -> RGBColor {
    let end = if ratio >= 1.0 { PARAVIRT } else { NESTED };
    let strength = (ratio.log2().abs() / 2.0).min(1.0);
    let mix = |from: u8, to: u8| {
        let mixed = f64::from(from) + (f64::from(to) - f64::from(from)) * strength;
        mixed.round() as u8
    };
    RGBColor(mix(EVEN.0, end.0), mix(EVEN.1, end.1), mix(EVEN.2, end.2))
}

fn words(comparison: &Comparison) -> String {
    let ratio = comparison.ratio;
    let by = match comparison.by {
        Criterion::Cost => "",
        Criterion::Rate => " r",
    };
    if (0.995..1.005).contains(&ratio) {
        "even".to_owned()
    } else if ratio > 1.0 {
        format!("P {ratio:.2}x{by}")
    } else {
        format!("N {:.2}x{by}", 1.0 / ratio)
    }
}

/// Draws a map; cells that are not finished stay white.
///
/// # Errors
/// [`PlotError`]: the file could not be written.
pub fn draw(path: &Path, title: &str, grid: &Grid, store: &Store) -> Result<(), PlotError> {
    let failed = |message: String| PlotError {
        file: path.display().to_string(),
        message,
    };
    let outcomes: Vec<Option<Outcome>> = grid.cells().map(|c| store.get(&c).copied()).collect();
    let columns = grid.transfers.len();
    // At most 16 by 16.
    let size = (
        LEFT as u32 + CELL.0 as u32 * columns as u32 + 30,
        (TOP + BELOW) as u32 + CELL.1 as u32 * grid.values.len() as u32,
    );
    let root = SVGBackend::new(path, size).into_drawing_area();
    paint(&root, title, grid, &outcomes)
        .and_then(|()| root.present().map_err(|error| error.to_string()))
        .map_err(failed)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn paint(
    root: &Area<'_>,
    title: &str,
    grid: &Grid,
    outcomes: &[Option<Outcome>],
) -> Result<(), String> {
    let text = |error: DrawingAreaErrorKind<std::io::Error>| error.to_string();
    let (columns, rows) = (grid.transfers.len() as i32, grid.values.len() as i32);
    root.fill(&WHITE).map_err(text)?;
    let say = |words: &str, at: (i32, i32), size: i32, colour: &RGBColor, anchor: HPos| {
        let style = TextStyle::from(("sans-serif", size).into_font())
            .color(colour)
            .pos(Pos::new(anchor, VPos::Center));
        root.draw_text(words, &style, at).map_err(text)
    };
    say(title, (14, 22), 18, &BLACK, HPos::Left)?;
    say(
        "modelled: P = paravirt is better, N = nested is better, by so much, of the cost of a transfer of 64 KiB,",
        (14, 46),
        13,
        &BLACK,
        HPos::Left,
    )?;
    say(
        "or, with r, of the data that devices move; the thick line is where it changes",
        (14, 66),
        13,
        &BLACK,
        HPos::Left,
    )?;
    let found = |column: i32, row: i32| -> Option<Comparison> {
        let inside = (0..columns).contains(&column) && (0..rows).contains(&row);
        let outcome = outcomes.get((row * columns + column) as usize);
        let outcome = outcome.filter(|_| inside)?.as_ref()?;
        Some(outcome.comparison())
    };
    let ratio = |column, row| found(column, row).map(|found| found.ratio);
    // The first row is at the bottom.
    let corner = |column: i32, row: i32| (LEFT + column * CELL.0, TOP + (rows - 1 - row) * CELL.1);
    for row in 0..rows {
        for column in 0..columns {
            let (x, y) = corner(column, row);
            let Some(found) = found(column, row) else {
                continue;
            };
            let fill = colour(found.ratio);
            let area = [(x, y), (x + CELL.0, y + CELL.1)];
            root.draw(&Rectangle::new(area, fill.filled()))
                .map_err(text)?;
            root.draw(&Rectangle::new(
                area,
                RGBColor(190, 190, 190).stroke_width(1),
            ))
            .map_err(text)?;
            let RGBColor(r, g, b) = fill;
            let light = 299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b) > 140_000;
            let ink = if light { BLACK } else { WHITE };
            let middle = (x + CELL.0 / 2, y + CELL.1 / 2);
            say(&words(&found), middle, 14, &ink, HPos::Center)?;
        }
    }
    let edge = |from: (i32, i32), to: (i32, i32)| {
        let line = PathElement::new(vec![from, to], BLACK.stroke_width(4));
        root.draw(&line).map_err(text)
    };
    for row in 0..rows {
        for column in 0..columns {
            let (x, y) = corner(column, row);
            let differs = |other: Option<f64>| {
                let here = ratio(column, row).map(|ratio| ratio >= 1.0);
                here.zip(other.map(|ratio| ratio >= 1.0))
                    .is_some_and(|(here, there)| here != there)
            };
            if differs(ratio(column + 1, row)) {
                edge((x + CELL.0, y), (x + CELL.0, y + CELL.1))?;
            }
            if differs(ratio(column, row + 1)) {
                edge((x, y), (x + CELL.0, y))?;
            }
        }
    }
    for (row, value) in (0..).zip(&grid.values) {
        let (x, y) = corner(0, row);
        say(
            &value.to_string(),
            (x - 10, y + CELL.1 / 2),
            13,
            &BLACK,
            HPos::Right,
        )?;
    }
    for (column, transfers) in (0..).zip(&grid.transfers) {
        let (x, y) = corner(column, 0);
        let at = (x + CELL.0 / 2, y + CELL.1 + 16);
        say(&transfers.to_string(), at, 13, &BLACK, HPos::Center)?;
    }
    let (x, y) = corner(0, 0);
    say(
        "transfers between a mapping and its unmapping",
        (x + columns * CELL.0 / 2, y + CELL.1 + 44),
        14,
        &BLACK,
        HPos::Center,
    )?;
    let (_, top) = corner(0, rows - 1);
    say(grid.kind.axis(), (14, top - 10), 13, &BLACK, HPos::Left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_colours_say_the_same() {
        let words = |ratio, by| words(&Comparison { ratio, by });
        assert_eq!(words(1.0, Criterion::Cost), "even");
        assert_eq!(words(2.0, Criterion::Cost), "P 2.00x");
        assert_eq!(words(0.5, Criterion::Rate), "N 2.00x r");
        assert_eq!(colour(1.0), RGBColor(247, 247, 247));
        assert_eq!(colour(16.0), RGBColor(84, 39, 136));
        assert_eq!(colour(0.01), RGBColor(179, 88, 6));
    }
}
