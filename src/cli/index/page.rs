//! What a search found, as a page: one file with thumbnails inside it, which loads nothing.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::RgbImage;
use image::imageops::thumbnail;
use qllama::{Picture, Result};

use crate::many::names::name_of;

const STYLE: &str = include_str!("page.css");
/// The longer side of a thumbnail, in pixels: twice of what is shown, for dense screens.
const SIDE: u32 = 352;
const QUALITY: u8 = 82;

/// A picture that was found.
pub struct Found {
    pub path: PathBuf,
    pub score: f32,
}

/// The page of a search for `asked`, a text or the name of a picture.
pub fn html(asked: &str, like: Option<&Path>, found: &[Found], upright: bool) -> String {
    let asked = escaped(asked);
    let title = if like.is_some() { format!("Like {asked}") } else { asked };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n<h1>{title}</h1>\n"
    );
    if let Some(path) = like {
        let _ = writeln!(page, "<p>{}</p>", picture(path, upright));
    }
    page.push_str("<main>\n");
    for Found { path, score } in found {
        let (shown, link) = (picture(path, upright), address(path));
        let name = escaped(&name_of(path));
        let _ = writeln!(
            page,
            "<figure><a class=\"picture\" href=\"{link}\">{shown}</a><figcaption><b>{score:.4}</b> {name}</figcaption></figure>"
        );
    }
    page.push_str("</main>\n</html>\n");
    page
}

/// A thumbnail, or why there is none.
fn picture(path: &Path, upright: bool) -> String {
    let alt = escaped(&name_of(path));
    match jpeg(path, upright) {
        Ok(bytes) => format!("<img alt=\"{alt}\" src=\"data:image/jpeg;base64,{}\">", STANDARD.encode(bytes)),
        Err(error) => format!("<span>{}</span>", escaped(&error.to_string())),
    }
}

fn jpeg(path: &Path, upright: bool) -> Result<Vec<u8>> {
    let picture = Picture::open_as_stored(path, upright)?;
    let (width, height) = (picture.width(), picture.height());
    let shrunk = |side: u32| (u64::from(side) * u64::from(SIDE) / u64::from(width.max(height).max(SIDE))).max(1) as u32;
    let whole = RgbImage::from_raw(width, height, picture.rgb().to_vec()).expect("three bytes a pixel");
    let small = thumbnail(&whole, shrunk(width), shrunk(height));
    let mut bytes = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut bytes, QUALITY);
    let (width, height) = (small.width() as u16, small.height() as u16);
    let done = encoder.encode(&small, width, height, jpeg_encoder::ColorType::Rgb);
    done.expect("memory takes every thumbnail");
    Ok(bytes)
}

/// Text as it stands in a page, also between quotes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// The address of a file on this machine.
fn address(path: &Path) -> String {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.into());
    let mut out = String::from("file://");
    if !whole.as_os_str().as_encoded_bytes().starts_with(b"/") {
        out.push('/');
    }
    for byte in whole.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' | b':' => {
                out.push(char::from(*byte))
            }
            b'\\' if cfg!(windows) => out.push('/'),
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_name_becomes_a_part_of_the_page() {
        let found = [Found { path: "/no/\"><script>alert(1)</script>'.png".into(), score: 0.5 }];
        let page = html("<img src=x onerror=alert(1)>", None, &found, true);
        assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("'.png"), "{page}");
        assert!(page.contains("&lt;script&gt;") && page.contains("href=\"file:///no/%22%3E%3Cscript%3E"), "{page}");
    }
}
