//! Shapes in pixels, and the two kinds of file that they become.
//!
//! Shapes are drawn four times as large as asked for: `plotters` has whole coordinates only, and a curve needs finer ones.
//! SVG is told so by its `viewBox`; PNG comes out of the average of 2 × 2 of these dots, at twice the size asked for, as
//! screens and papers of today want it.

use std::sync::Once;

use plotters::backend::{BitMapBackend, SVGBackend};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{PathElement, Rectangle, Text};
use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, IntoFont, RGBColor, ShapeStyle, TextStyle};
use thiserror::Error;

/// Dots a pixel.
const DOTS: u32 = 4;
/// Dots of a side of what becomes one pixel of a PNG.
const AVERAGED: u32 = 2;
/// Name of the font in SVG, and the name under which its glyphs are found for PNG.
const FONT: &str = "DejaVu Sans, Verdana, sans-serif";

/// A colour: red, green, blue.
pub type Rgb = (u8, u8, u8);

/// Text and thick lines.
pub const INK: Rgb = (31, 41, 55);
/// What explains.
pub const GREY: Rgb = (107, 114, 128);
/// Lines of a grid at labelled places.
pub const GRID: Rgb = (218, 222, 228);
/// Lines of a grid between those.
pub const FAINT_GRID: Rgb = (240, 242, 245);
/// Lines of data, told apart by hue and by lightness.
pub const COLOURS: [Rgb; 8] = [
    (37, 99, 235),
    (234, 88, 12),
    (5, 150, 105),
    (147, 51, 234),
    (220, 38, 38),
    (8, 145, 178),
    (161, 98, 7),
    (190, 24, 93),
];

/// Which end of a text stands at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// It begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// It ends there.
    End,
}

/// Something to draw; places in pixels from the left upper corner, x first.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// A line through points.
    Line {
        /// At least two.
        points: Vec<(f64, f64)>,
        /// Of the line.
        colour: Rgb,
        /// In pixels.
        width: f64,
    },
    /// A filled rectangle.
    Bar {
        /// Left upper corner.
        from: (f64, f64),
        /// Right lower corner.
        to: (f64, f64),
        /// Of its inside; it has no border.
        colour: Rgb,
    },
    /// One line of text.
    Text {
        /// Height of its middle, and the place of its [`Anchor`].
        at: (f64, f64),
        /// What it says.
        text: String,
        /// Height of a line in pixels.
        size: f64,
        /// Which end is at its place.
        anchor: Anchor,
        /// Of its letters.
        colour: Rgb,
        /// Whether it is a title.
        is_bold: bool,
    },
}

/// A picture before it is a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// From the bottom to the top.
    pub shapes: Vec<Shape>,
}

/// Why there is no picture.
#[derive(Debug, Error)]
pub enum DrawError {
    /// The library that draws.
    #[error("cannot draw a picture of {width} x {height} pixels: {why}")]
    Draw {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
        /// Its own words.
        why: String,
    },
    /// The library that writes PNG.
    #[error("cannot encode a PNG")]
    Png(#[from] png::EncodingError),
}

impl Scene {
    /// An empty one on white.
    #[must_use]
    pub fn new(width: u32, height: u32) -> Scene {
        Scene { width, height, shapes: Vec::new() }
    }

    /// Adds a line from `a` to `b`.
    pub fn line(&mut self, a: (f64, f64), b: (f64, f64), colour: Rgb, width: f64) {
        self.shapes.push(Shape::Line { points: vec![a, b], colour, width });
    }

    /// Adds a text that is no title.
    pub fn text(&mut self, at: (f64, f64), text: &str, size: f64, anchor: Anchor, colour: Rgb) {
        let text = text.to_owned();
        self.shapes.push(Shape::Text { at, text, size, anchor, colour, is_bold: false });
    }

    /// Adds a title, and under it in smaller letters what explains it.
    pub fn title(&mut self, at: (f64, f64), title: &str, explained: &str) {
        let (text, anchor) = (title.to_owned(), Anchor::Start);
        self.shapes.push(Shape::Text { at, text, size: 19.0, anchor, colour: INK, is_bold: true });
        self.text((at.0, at.1 + 21.0), explained, 13.0, anchor, GREY);
    }

    /// Puts another picture below this one.
    #[must_use]
    pub fn above(mut self, below: Scene) -> Scene {
        let down = f64::from(self.height);
        let lower = |(x, y): (f64, f64)| (x, y + down);
        self.shapes.extend(below.shapes.into_iter().map(|shape| match shape {
            Shape::Line { points, colour, width } => {
                Shape::Line { points: points.into_iter().map(lower).collect(), colour, width }
            }
            Shape::Bar { from, to, colour } => Shape::Bar { from: lower(from), to: lower(to), colour },
            Shape::Text { at, text, size, anchor, colour, is_bold } => {
                Shape::Text { at: lower(at), text, size, anchor, colour, is_bold }
            }
        }));
        Scene { width: self.width.max(below.width), height: self.height + below.height, ..self }
    }

    /// The picture as an SVG document. Texts are escaped.
    ///
    /// # Errors
    /// [`DrawError::Draw`].
    pub fn svg(&self) -> Result<String, DrawError> {
        let (width, height) = (self.width * DOTS, self.height * DOTS);
        let mut svg = String::new();
        self.draw(SVGBackend::with_string(&mut svg, (width, height)))?;
        // The size in pixels; the coordinates stay those of the dots.
        let drawn = format!("<svg width=\"{width}\" height=\"{height}\"");
        let wanted = format!("<svg width=\"{}\" height=\"{}\" role=\"img\"", self.width, self.height);
        Ok(svg.replacen(&drawn, &wanted, 1))
    }

    /// The picture as the bytes of a PNG file, twice as many pixels wide and high as the scene.
    ///
    /// # Errors
    /// [`DrawError`].
    pub fn png(&self) -> Result<Vec<u8>, DrawError> {
        let (width, height) = (self.width * DOTS, self.height * DOTS);
        let mut dots = vec![255_u8; width as usize * height as usize * 3];
        self.draw(BitMapBackend::with_buffer(&mut dots, (width, height)))?;
        let pixels = averaged(&dots, width as usize * 3);
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width / AVERAGED, height / AVERAGED);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::High);
        encoder.write_header()?.write_image_data(&pixels)?;
        Ok(file)
    }

    fn draw<B: DrawingBackend>(&self, backend: B) -> Result<(), DrawError> {
        register_font();
        let area = backend.into_drawing_area();
        let drawn = area
            .fill(&RGBColor(255, 255, 255))
            .and_then(|()| self.shapes.iter().try_for_each(|shape| draw_shape(&area, shape)))
            .and_then(|()| area.present());
        drawn.map_err(|error| DrawError::Draw {
            width: self.width,
            height: self.height,
            why: error.to_string(),
        })
    }
}

type Drawn<B> = Result<(), plotters::drawing::DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

fn draw_shape<B: DrawingBackend>(area: &DrawingArea<B, Shift>, shape: &Shape) -> Drawn<B> {
    match shape {
        Shape::Line { points, colour, width } => {
            let mut dots: Vec<(i32, i32)> = points.iter().copied().map(dot).collect();
            dots.dedup();
            let style =
                ShapeStyle { color: rgb(*colour).into(), filled: false, stroke_width: length(*width) };
            area.draw(&PathElement::new(dots, style))
        }
        Shape::Bar { from, to, colour } => {
            let style = ShapeStyle { color: rgb(*colour).into(), filled: true, stroke_width: 0 };
            area.draw(&Rectangle::new([dot(*from), dot(*to)], style))
        }
        Shape::Text { at, text, size, anchor, colour, is_bold } => {
            let across = match anchor {
                Anchor::Start => HPos::Left,
                Anchor::Middle => HPos::Center,
                Anchor::End => HPos::Right,
            };
            let weight = if *is_bold { FontStyle::Bold } else { FontStyle::Normal };
            let font = (FONT, size * f64::from(DOTS), weight).into_font();
            let colour = rgb(*colour);
            let style = TextStyle::from(font).color(&colour).pos(Pos::new(across, VPos::Center));
            area.draw(&Text::new(text.as_str(), dot(*at), style))
        }
    }
}

fn rgb((red, green, blue): Rgb) -> RGBColor {
    RGBColor(red, green, blue)
}

#[allow(clippy::cast_possible_truncation)] // pictures are some thousand dots wide
fn dot((x, y): (f64, f64)) -> (i32, i32) {
    let scaled = |pixels: f64| (pixels * f64::from(DOTS)).round() as i32;
    (scaled(x), scaled(y))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a few dots
fn length(pixels: f64) -> u32 {
    (pixels * f64::from(DOTS)).round().max(1.0) as u32
}

/// Each pixel the average of its dots; `row` is the length of a row of dots in bytes.
fn averaged(dots: &[u8], row: usize) -> Vec<u8> {
    const SIDE: usize = AVERAGED as usize;
    let mut pixels = Vec::with_capacity(dots.len() / (SIDE * SIDE));
    for rows in dots.chunks_exact(row * SIDE) {
        for x in (0..row).step_by(3 * SIDE) {
            for channel in 0..3 {
                let mut sum = 0_u32;
                for y in 0..SIDE {
                    for across in 0..SIDE {
                        sum += u32::from(rows[y * row + x + across * 3 + channel]);
                    }
                }
                let mean = (sum + AVERAGED * AVERAGED / 2) / (AVERAGED * AVERAGED);
                pixels.push(u8::try_from(mean).unwrap_or(u8::MAX));
            }
        }
    }
    pixels
}

/// Gives `plotters` the glyphs, once a process.
fn register_font() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let fonts = [(FontStyle::Normal, dejavu::sans::regular()), (FontStyle::Bold, dejavu::sans::bold())];
        for (style, glyphs) in fonts {
            // A font that cannot be read shows as an error where the first text is drawn.
            let _ = plotters::style::register_font(FONT, style, glyphs);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixel(file: &[u8], (x, y): (usize, usize)) -> (usize, usize, [u8; 3]) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut bytes).unwrap();
        let (width, height) = (info.width as usize, info.height as usize);
        let at = (y * width + x) * 3;
        (width, height, bytes[at..at + 3].try_into().unwrap())
    }

    #[test]
    fn a_png_has_twice_the_pixels_and_shapes_where_they_were_put() {
        let mut scene = Scene::new(40, 20);
        scene.shapes.push(Shape::Bar { from: (10.0, 5.0), to: (20.0, 10.0), colour: (200, 0, 0) });
        let file = scene.png().unwrap();
        assert_eq!(pixel(&file, (30, 15)), (80, 40, [200, 0, 0]), "inside the bar");
        assert_eq!(pixel(&file, (50, 15)).2, [255; 3], "right of it");
        assert_eq!(pixel(&file, (30, 25)).2, [255; 3], "under it");
    }

    #[test]
    fn letters_leave_ink_without_a_font_of_the_system() {
        let mut scene = Scene::new(40, 20);
        scene.text((20.0, 10.0), "µ", 16.0, Anchor::Middle, (0, 0, 0));
        let file = scene.png().unwrap();
        let inked = (0..80 * 40).filter(|at| pixel(&file, (at % 80, at / 80)).2[0] < 128).count();
        assert!((20..400).contains(&inked), "{inked} dark pixels");
    }

    #[test]
    fn svg_has_the_size_asked_for_finer_coordinates_and_escaped_text() {
        let mut scene = Scene::new(100, 50);
        scene.text((1.0, 2.0), "<script>&", 12.0, Anchor::Start, INK);
        scene.line((0.25, 0.5), (10.0, 50.0), INK, 1.5);
        let svg = scene.svg().unwrap();
        assert!(
            svg.starts_with("<svg width=\"100\" height=\"50\" role=\"img\" viewBox=\"0 0 400 200\""),
            "{svg}"
        );
        assert!(svg.contains("&lt;script&gt;&amp;") && !svg.contains("<script>"), "{svg}");
        assert!(svg.contains("1,2 40,200"), "{svg}");
    }

    #[test]
    fn a_picture_below_another_keeps_its_places_relative_to_its_own_corner() {
        let mut below = Scene::new(30, 10);
        below.line((1.0, 2.0), (3.0, 4.0), INK, 1.0);
        let both = Scene::new(20, 100).above(below);
        assert_eq!((both.width, both.height), (30, 110));
        let line = Shape::Line { points: vec![(1.0, 102.0), (3.0, 104.0)], colour: INK, width: 1.0 };
        assert_eq!(both.shapes, [line]);
    }
}
