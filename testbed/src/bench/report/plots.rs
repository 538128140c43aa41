//! The plots, as SVG.

use super::axes::{Places, Values};
use super::style::{HOST, Marker, Part, hexadecimal, look, part};
use crate::bench::lines::Mode;
use crate::bench::number;
use crate::bench::symbols::Purpose;
use crate::{Error, Result};
use plotters::element::DashedPathElement;
use plotters::prelude::*;

/// Size of a plot in pixels.
const SIZE: (u32, u32) = (860, 430);
/// Text in plots.
const FONT: (&str, u32) = ("sans-serif", 14);

/// A line: a column, and its values above the labels of the axis.
pub type Curve = (Mode, Vec<(usize, f64)>);

/// A bar: its label, what is done below EL2, and at EL2.
pub type Bar = (String, f64, Vec<(Purpose, f64)>);

fn failed(error: impl std::fmt::Display) -> Error {
    Error::unsuitable(format!("a plot cannot be drawn: {error}"), "report this")
}

/// How the values of a plot are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Joined by lines, on a scale of powers.
    Lines,
    /// Joined by lines, from nothing on.
    LinesFromZero,
    /// As points beside each other, from nothing on: the labels have no order.
    Points,
}

/// Curves above the labels; `axes` says what the labels and what the values are.
///
/// # Errors
///
/// [`Error::Unsuitable`] when there is nothing to draw.
pub fn curves(
    labels: &[String],
    axes: [&str; 2],
    shape: Shape,
    curves: &[Curve],
) -> Result<String> {
    let values = || curves.iter().flat_map(|(_, points)| points);
    let least = values().map(|point| point.1).fold(f64::MAX, f64::min);
    let most = values().map(|point| point.1).fold(0.0, f64::max);
    if most <= 0.0 || least <= 0.0 {
        return Err(failed("it would be empty"));
    }
    let scale = match shape {
        Shape::Lines => Values::powers(least, most),
        Shape::LinesFromZero | Shape::Points => Values::even(most),
    };
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        // The names of the curves are beside the plot, where they cover nothing.
        let (left, right) = root.split_horizontally(SIZE.0 as i32 - 190);
        let mut chart = ChartBuilder::on(&left)
            .margin(12)
            .x_label_area_size(48)
            .y_label_area_size(88)
            .build_cartesian_2d(Places::new(labels), scale)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(RGBColor(0xcc, 0xcc, 0xcc))
            .label_style(FONT)
            .axis_desc_style(FONT)
            .x_desc(axes[0])
            .y_desc(axes[1])
            .y_label_formatter(&|value| number(*value))
            .draw()
            .map_err(failed)?;
        for (index, (mode, points)) in curves.iter().enumerate() {
            let look = look(*mode);
            let aside = match shape {
                Shape::Points => (index as f64 + 0.5) / curves.len() as f64 * 0.7 - 0.35,
                Shape::Lines | Shape::LinesFromZero => 0.0,
            };
            let points: Vec<(f64, f64)> = points
                .iter()
                .map(|(at, value)| (*at as f64 + aside, *value))
                .collect();
            let line = look.colour.stroke_width(2);
            if shape != Shape::Points {
                match look.dash {
                    None => chart.draw_series(LineSeries::new(points.clone(), line)),
                    Some((dash, gap)) => {
                        chart.draw_series(DashedLineSeries::new(points.clone(), dash, gap, line))
                    }
                }
                .map_err(failed)?;
            }
            let (corners, filled) = outline(look.marker);
            for point in points {
                let path = PathElement::new(corners.clone(), line);
                chart
                    .draw_series([EmptyElement::at(point) + path])
                    .map_err(failed)?;
                if filled {
                    let shape = Polygon::new(corners.clone(), look.colour.filled());
                    chart
                        .draw_series([EmptyElement::at(point) + shape])
                        .map_err(failed)?;
                }
            }
        }
        for (index, (mode, _)) in curves.iter().enumerate() {
            key(&right, index, *mode, shape != Shape::Points)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// The name of a curve beside a piece of it, or beside its marker alone.
fn key(area: &Area<'_>, index: usize, mode: Mode, joined: bool) -> Result<()> {
    let look = look(mode);
    let y = 40 + index as i32 * 28;
    let line = look.colour.stroke_width(2);
    if joined {
        let ends = vec![(4, y), (48, y)];
        match look.dash {
            None => area.draw(&PathElement::new(ends, line)),
            Some((dash, gap)) => area.draw(&DashedPathElement::new(ends, dash, gap, line)),
        }
        .map_err(failed)?;
    }
    let (corners, filled) = outline(look.marker);
    let at = |corner: &(i32, i32)| (26 + corner.0, y + corner.1);
    let corners: Vec<(i32, i32)> = corners.iter().map(at).collect();
    area.draw(&PathElement::new(corners.clone(), line))
        .map_err(failed)?;
    if filled {
        area.draw(&Polygon::new(corners, look.colour.filled()))
            .map_err(failed)?;
    }
    area.draw(&Text::new(mode.word(), (58, y - 7), FONT))
        .map_err(failed)
}

/// The outline of a marker around its point, and whether it is filled.
fn outline(marker: Marker) -> (Vec<(i32, i32)>, bool) {
    const ROUND: [(i32, i32); 9] = [
        (0, -5),
        (4, -4),
        (5, 0),
        (4, 4),
        (0, 5),
        (-4, 4),
        (-5, 0),
        (-4, -4),
        (0, -5),
    ];
    match marker {
        Marker::Circle => (ROUND.to_vec(), true),
        Marker::Ring => (ROUND.to_vec(), false),
        Marker::Triangle => (vec![(0, -7), (6, 5), (-6, 5), (0, -7)], true),
        Marker::Cross => (vec![(-5, -5), (5, 5), (0, 0), (-5, 5), (5, -5)], false),
        Marker::Square => (vec![(-5, -5), (5, -5), (5, 5), (-5, 5), (-5, -5)], true),
        Marker::Diamond => (vec![(0, -7), (7, 0), (0, 7), (-7, 0), (0, -7)], true),
    }
}

/// Bars that lie, each of what is done below EL2 and, hatched, at EL2.
///
/// # Errors
///
/// [`Error::Unsuitable`] when there is nothing to draw.
pub fn bars(bars: &[Bar]) -> Result<String> {
    let whole = |bar: &Bar| bar.1.max(0.0) + bar.2.iter().map(|part| part.1).sum::<f64>();
    let most = bars.iter().map(whole).fold(0.0, f64::max);
    if most <= 0.0 {
        return Err(failed("it would be empty"));
    }
    let height = 130 + 34 * bars.len() as u32;
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (SIZE.0, height)).into_drawing_area();
        let (top, bottom) = root.split_vertically(48);
        parts_key(&top)?;
        // The first bar is the uppermost one.
        let labels: Vec<String> = bars.iter().rev().map(|bar| bar.0.clone()).collect();
        let mut chart = ChartBuilder::on(&bottom)
            .margin(8)
            .margin_right(64)
            .x_label_area_size(48)
            .y_label_area_size(210)
            .build_cartesian_2d(Values::even(most), Places::new(&labels))
            .map_err(failed)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .bold_line_style(RGBColor(0xcc, 0xcc, 0xcc))
            .label_style(FONT)
            .axis_desc_style(FONT)
            .x_labels(8)
            .x_desc("instructions")
            .x_label_formatter(&|value| number(*value))
            .draw()
            .map_err(failed)?;
        for (index, bar) in bars.iter().rev().enumerate() {
            let mut at = 0.0;
            let host = [(HOST, bar.1.max(0.0))].into_iter();
            let el2 = bar
                .2
                .iter()
                .map(|(purpose, value)| (part(*purpose), *value));
            for (part, value) in host.chain(el2) {
                let corners = [(at, index as f64 - 0.36), (at + value, index as f64 + 0.36)];
                at += value;
                let outline = RGBColor(0x33, 0x33, 0x33).stroke_width(1);
                let shapes = [
                    Rectangle::new(corners, part.colour.filled()),
                    Rectangle::new(corners, outline),
                ];
                chart.draw_series(shapes).map_err(failed)?;
            }
            let label =
                EmptyElement::at((at, index as f64)) + Text::new(number(at.round()), (5, -7), FONT);
            chart.draw_series([label]).map_err(failed)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(hatched(&text))
}

/// What the parts of a bar are.
fn parts_key(area: &Area<'_>) -> Result<()> {
    let all = [("host", HOST)]
        .into_iter()
        .chain(Purpose::ALL.map(|purpose| (purpose.words(), part(purpose))));
    let mut x = 12;
    for (words, part) in all {
        let corners = [(x, 16), (x + 22, 32)];
        let outline = RGBColor(0x33, 0x33, 0x33).stroke_width(1);
        area.draw(&Rectangle::new(corners, part.colour.filled()))
            .map_err(failed)?;
        area.draw(&Rectangle::new(corners, outline))
            .map_err(failed)?;
        area.draw(&Text::new(words, (x + 28, 17), FONT))
            .map_err(failed)?;
        x += 46 + words.len() as i32 * 7;
    }
    Ok(())
}

/// Puts the hatching in the place of the plain colours, which the library draws.
fn hatched(svg: &str) -> String {
    let parts: Vec<Part> = Purpose::ALL.map(part).to_vec();
    let mut definitions = String::from("<defs>");
    let mut text = svg.to_owned();
    for (index, part) in parts.iter().enumerate() {
        let colour = hexadecimal(part.colour);
        definitions.push_str(&format!(
            "<pattern id=\"hatch{index}\" width=\"8\" height=\"8\" \
             patternUnits=\"userSpaceOnUse\"><rect width=\"8\" height=\"8\" style=\"fill:{colour}\"/>\
             <path d=\"{}\" stroke=\"black\" stroke-width=\"1\"/></pattern>",
            part.hatch
        ));
        let plain = format!("fill=\"{colour}\"");
        text = text.replace(&plain, &format!("fill=\"url(#hatch{index})\""));
    }
    definitions.push_str("</defs>");
    match text.find('>') {
        Some(end) => {
            let (head, rest) = text.split_at(end + 1);
            format!("{head}\n{definitions}{rest}")
        }
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_its_curves_and_names() {
        let labels = ["4 KiB", "64 KiB"].map(str::to_owned);
        let svg = curves(
            &labels,
            ["size", "instructions"],
            Shape::Lines,
            &[
                (Mode::Native, vec![(0, 900.0), (1, 1_300.0)]),
                (Mode::Paravirt, vec![(0, 2_700.0), (1, 3_000.0)]),
            ],
        )
        .expect("a plot");
        for part in ["4 KiB", "64 KiB", "paravirt", "native", "#D55E00"] {
            assert!(svg.contains(part), "no {part}");
        }
        assert!(curves(&labels, ["x", "y"], Shape::Points, &[]).is_err());
    }

    #[test]
    fn bars_are_hatched() {
        let bar = ("x".to_owned(), 100.0, vec![(Purpose::Ledger, 50.0)]);
        let svg = bars(&[bar]).expect("a plot");
        assert!(svg.contains("url(#hatch2)"));
        assert!(svg.contains("id=\"hatch2\""));
        assert!(bars(&[]).is_err());
    }
}
