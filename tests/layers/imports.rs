//! What a Rust file names: its `use`s and the paths in its code, macros' arguments included, without its tests. Read
//! from its tokens, so neither comments nor strings count.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::vec::IntoIter;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// A path with the line it stands in.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    pub path: Vec<String>,
    pub line: usize,
}

/// What a file names.
#[derive(Default, Debug)]
pub struct Imports {
    /// Modules with a file of their own.
    pub modules: Vec<Named>,
    /// Names that `use` brings, `*` for all, with what they stand for.
    pub uses: Vec<(String, Named)>,
    /// Names that the file itself defines.
    pub items: BTreeSet<String>,
    /// Paths in code, of two names or more.
    pub paths: Vec<Named>,
}

impl Imports {
    pub fn read(text: &str) -> Result<Imports, String> {
        let tokens: TokenStream = text.parse().map_err(|e| format!("these are not Rust's tokens: {e}"))?;
        let mut imports = Imports::default();
        imports.walk(tokens, 0);
        Ok(imports)
    }

    /// What the names that `use` brings stand for.
    pub fn alias<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Named> {
        self.uses.iter().filter(move |(n, _)| n == name).map(|(_, named)| named)
    }

    /// Tokens at `depth` modules within the file.
    fn walk(&mut self, tokens: TokenStream, depth: usize) {
        let mut tokens = Tokens { tokens: tokens.into_iter().collect::<Vec<_>>().into_iter().peekable() };
        // Behind a single dot stands a field or a method; behind two the end of a range.
        let mut dots = 0;
        while let Some(token) = tokens.tokens.next() {
            let member = std::mem::take(&mut dots) == 1;
            match token {
                TokenTree::Punct(p) if p.as_char() == '.' => dots = 1 + usize::from(member),
                TokenTree::Punct(p) if p.as_char() == '#' => {
                    if tokens.test_attribute() {
                        tokens.pass_item();
                    }
                }
                TokenTree::Group(group) => self.walk(group.stream(), depth),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
                TokenTree::Ident(_) if member => {}
                TokenTree::Ident(ident) => {
                    let (name, line) = (ident.to_string(), ident.span().start().line);
                    match name.as_str() {
                        "use" => {
                            let mut found = Vec::new();
                            tokens.use_tree(&[], &mut found);
                            let named = found.into_iter().map(|(name, path)| (name, outside(path, depth)));
                            self.uses
                                .extend(named.filter_map(|(name, path)| Some((name, Named { path: path?, line }))));
                        }
                        "mod" => self.module(&mut tokens, depth, line),
                        "const" | "enum" | "fn" | "macro_rules" | "static" | "struct" | "trait" | "type" | "union" => {
                            // Behind `macro_rules` comes an exclamation mark.
                            if tokens.next_is('!') {
                                tokens.tokens.next();
                            }
                            self.items.extend(tokens.ident());
                        }
                        // A visibility, not an import.
                        "pub" => tokens.pass_visibility(),
                        _ => {
                            let path = tokens.path(name);
                            if let (Some(path), true) = (outside(path.clone(), depth), path.len() > 1) {
                                self.paths.push(Named { path, line });
                            }
                        }
                    }
                }
            }
        }
    }

    fn module(&mut self, tokens: &mut Tokens, depth: usize, line: usize) {
        let Some(TokenTree::Ident(name)) = tokens.tokens.next() else { return };
        match tokens.tokens.next() {
            Some(TokenTree::Group(body)) => self.walk(body.stream(), depth + 1),
            _ if depth == 0 => self.modules.push(Named { path: vec![name.to_string()], line }),
            _ => {}
        }
    }
}

/// A path as the file's own module would write it, given as written `depth` modules within; `None` where it leads to
/// within the file.
fn outside(path: Vec<String>, depth: usize) -> Option<Vec<String>> {
    let up = path.iter().take_while(|name| *name == "super").count();
    match path[0].as_str() {
        "super" if up > depth => Some(path[depth..].to_vec()),
        "super" if up == depth && path.len() > up => Some([&["self".to_string()], &path[up..]].concat()),
        "super" | "self" if depth > 0 => None,
        _ => Some(path),
    }
}

struct Tokens {
    tokens: Peekable<IntoIter<TokenTree>>,
}

impl Tokens {
    fn next_is(&mut self, c: char) -> bool {
        matches!(self.tokens.peek(), Some(TokenTree::Punct(p)) if p.as_char() == c)
    }

    fn group(&mut self, delimiter: Delimiter) -> Option<Group> {
        match self.tokens.peek() {
            Some(TokenTree::Group(group)) if group.delimiter() == delimiter => {
                let group = group.clone();
                self.tokens.next();
                Some(group)
            }
            _ => None,
        }
    }

    /// Passes `::`.
    fn colons(&mut self) -> bool {
        let found = self.next_is(':') && {
            let mut ahead = self.tokens.clone();
            ahead.next();
            matches!(ahead.peek(), Some(TokenTree::Punct(p)) if p.as_char() == ':')
        };
        if found {
            self.tokens.next();
            self.tokens.next();
        }
        found
    }

    fn ident(&mut self) -> Option<String> {
        match self.tokens.peek() {
            Some(TokenTree::Ident(ident)) => {
                let name = ident.to_string();
                self.tokens.next();
                Some(name)
            }
            _ => None,
        }
    }

    /// The path that begins with `first`.
    fn path(&mut self, first: String) -> Vec<String> {
        let mut path = vec![first];
        while self.colons() {
            match self.ident() {
                Some(name) => path.push(name),
                None => break,
            }
        }
        path
    }

    fn pass_visibility(&mut self) {
        self.group(Delimiter::Parenthesis);
    }

    /// Passes an attribute behind its `#`: whether it is a `cfg` that only tests meet.
    fn test_attribute(&mut self) -> bool {
        if self.next_is('!') {
            self.tokens.next();
        }
        let Some(attribute) = self.group(Delimiter::Bracket) else { return false };
        let words: BTreeSet<String> =
            attribute.to_string().split(|c: char| !c.is_alphanumeric()).map(String::from).collect();
        words.contains("cfg") && words.contains("test") && !words.contains("not")
    }

    /// Passes an item: up to its braces or semicolon.
    fn pass_item(&mut self) {
        for token in self.tokens.by_ref() {
            match token {
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return,
                TokenTree::Punct(p) if p.as_char() == ';' => return,
                _ => {}
            }
        }
    }

    /// Reads behind `use` and what is around it; adds names with what they stand for.
    fn use_tree(&mut self, before: &[String], found: &mut Vec<(String, Vec<String>)>) {
        let mut path = before.to_vec();
        self.colons();
        loop {
            if let Some(group) = self.group(Delimiter::Brace) {
                let mut inner =
                    Tokens { tokens: group.stream().into_iter().collect::<Vec<_>>().into_iter().peekable() };
                while inner.tokens.peek().is_some() {
                    inner.use_tree(&path, found);
                }
            } else if self.next_is('*') {
                self.tokens.next();
                found.push(("*".into(), path.clone()));
            } else if let Some(name) = self.ident() {
                if name != "self" || path.is_empty() {
                    path.push(name);
                }
                if self.colons() {
                    continue;
                }
                let mut alias = path.last().unwrap().clone();
                if matches!(self.tokens.peek(), Some(TokenTree::Ident(word)) if word == "as") {
                    self.tokens.next();
                    alias = self.ident().unwrap_or_default();
                }
                found.push((alias, path.clone()));
            }
            // A comma or the semicolon.
            self.tokens.next();
            return;
        }
    }
}
