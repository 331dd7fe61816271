//! What a card shows on its monitor: QEMU's screen dumps, which are portable pixmaps (ppm(5), form P6).

use anyhow::{Context, Result, ensure};

/// A picture, one byte each for red, green and blue per pixel, rows from the top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screen {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// All pixels.
    pub pixels: Vec<[u8; 3]>,
}

impl Screen {
    /// Reads a pixmap.
    pub fn parse(ppm: &[u8]) -> Result<Self> {
        let mut rest = ppm;
        let mut word = || -> Result<String> {
            let start =
                rest.iter().position(|byte| !byte.is_ascii_whitespace()).context("the pixmap ends early")?;
            let length =
                rest[start..].iter().position(u8::is_ascii_whitespace).context("the pixmap ends early")?;
            let word = String::from_utf8_lossy(&rest[start..start + length]).into_owned();
            rest = &rest[start + length + 1..];
            Ok(word)
        };
        ensure!(word()? == "P6", "not a pixmap of form P6");
        let (width, height): (usize, usize) = (word()?.parse()?, word()?.parse()?);
        ensure!(word()? == "255", "not one byte per colour");
        let pixels: Vec<[u8; 3]> = rest.chunks_exact(3).map(|rgb| [rgb[0], rgb[1], rgb[2]]).collect();
        ensure!(
            Some(pixels.len()) == width.checked_mul(height),
            "{} pixels for {width}x{height}",
            pixels.len()
        );
        Ok(Self { width, height, pixels })
    }

    /// How many different colours there are: a dark screen has one, a drawn one has many.
    pub fn colours(&self) -> usize {
        let mut colours = self.pixels.clone();
        colours.sort_unstable();
        colours.dedup();
        colours.len()
    }

    /// Whether nothing is drawn.
    pub fn is_blank(&self) -> bool {
        self.colours() <= 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pixmap_is_read() {
        let screen = Screen::parse(b"P6\n2 1\n255\n\x00\x00\x00\xff\x20\x0a").unwrap();
        assert_eq!((screen.width, screen.height), (2, 1));
        assert_eq!(screen.pixels[1], [0xff, 0x20, 0x0a]);
        assert_eq!(screen.colours(), 2);
    }

    #[test]
    fn a_damaged_pixmap_is_refused() {
        for bytes in [&b""[..], b"P6", b"P6\n2 2\n255\n\x00", b"P5\n1 1\n255\n\x00\x00\x00", b"P6 a b 255 "] {
            assert!(Screen::parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
