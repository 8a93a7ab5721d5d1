//! The regular expressions of `ignore` and `targets` lists, as far as such lists use them: literals, `.`, classes,
//! `\d \w \s`, groups, `|`, `* + ?`, `^` and `$`. Anything else (counts, look-around, back references) is an error.
//! Matching follows all alternatives at once, so its time is linear in the text whatever the pattern.

/// A compiled pattern.
#[derive(Debug, Clone)]
pub struct Pattern {
    instructions: Vec<Instruction>,
}

#[derive(Debug, Clone)]
enum Instruction {
    /// One character; true in front negates. Ranges are inclusive.
    Any(bool, Vec<(char, char)>),
    Start,
    End,
    Jump(usize),
    /// Both ways.
    Split(usize, usize),
    Match,
}

/// Longer patterns than this are refused; it also bounds the depth of groups.
const MAX_CHARS: usize = 500;

impl Pattern {
    /// # Errors
    /// What is wrong with the pattern or not supported.
    pub fn new(text: &str) -> Result<Pattern, String> {
        let chars: Vec<char> = text.chars().collect();
        if chars.len() > MAX_CHARS {
            return Err(format!("a pattern of {} characters, at most {MAX_CHARS} are read", chars.len()));
        }
        let mut parser = Parser { chars: &chars, at: 0, instructions: Vec::new() };
        parser.alternatives()?;
        if parser.at < chars.len() {
            return Err(format!("unmatched ) in the pattern {:?}", crate::error::printable(text)));
        }
        parser.instructions.push(Instruction::Match);
        Ok(Pattern { instructions: parser.instructions })
    }

    /// Whether the pattern matches from the start of `text` on (to wherever; `$` asks for the end).
    pub fn matches_start(&self, text: &str) -> bool {
        let mut now = Vec::new();
        let mut seen = vec![false; self.instructions.len()];
        let mut chars = text.chars().peekable();
        if self.follow(0, true, chars.peek().is_none(), &mut seen, &mut now) {
            return true;
        }
        while let Some(c) = chars.next() {
            let at_end = chars.peek().is_none();
            let mut next = Vec::new();
            seen.fill(false);
            for &at in &now {
                let Instruction::Any(negated, ranges) = &self.instructions[at] else { continue };
                if ranges.iter().any(|(a, b)| (*a..=*b).contains(&c)) != *negated
                    && self.follow(at + 1, false, at_end, &mut seen, &mut next)
                {
                    return true;
                }
            }
            now = next;
        }
        false
    }

    /// Adds to `out` the characters that may come next after instruction `from`; true when the match is complete.
    fn follow(&self, from: usize, at_start: bool, at_end: bool, seen: &mut [bool], out: &mut Vec<usize>) -> bool {
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            match &self.instructions[at] {
                Instruction::Any(..) => out.push(at),
                Instruction::Start if at_start => open.push(at + 1),
                Instruction::End if at_end => open.push(at + 1),
                Instruction::Start | Instruction::End => {}
                Instruction::Jump(to) => open.push(*to),
                Instruction::Split(a, b) => open.extend([*a, *b]),
                Instruction::Match => return true,
            }
        }
        false
    }
}

struct Parser<'a> {
    chars: &'a [char],
    at: usize,
    instructions: Vec<Instruction>,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn unsupported<T>(&self, what: &str) -> Result<T, String> {
        let text: String = self.chars.iter().collect();
        Err(format!("{what} in the pattern {:?} cannot be read", crate::error::printable(&text)))
    }

    /// Makes room for a split in front of the instructions from `start` on: every one that those point at moves by one.
    fn insert_split(&mut self, start: usize) {
        self.instructions.insert(start, Instruction::Match);
        for instruction in &mut self.instructions[start + 1..] {
            match instruction {
                Instruction::Jump(to) => *to += 1,
                Instruction::Split(a, b) => {
                    *a += 1;
                    *b += 1;
                }
                _ => {}
            }
        }
    }

    fn alternatives(&mut self) -> Result<(), String> {
        let start = self.instructions.len();
        self.sequence()?;
        if self.peek() == Some('|') {
            self.at += 1;
            self.insert_split(start);
            let jump = self.instructions.len();
            self.instructions.push(Instruction::Match);
            self.instructions[start] = Instruction::Split(start + 1, jump + 1);
            self.alternatives()?;
            self.instructions[jump] = Instruction::Jump(self.instructions.len());
        }
        Ok(())
    }

    fn sequence(&mut self) -> Result<(), String> {
        while let Some(c) = self.peek() {
            if c == '|' || c == ')' {
                break;
            }
            let start = self.instructions.len();
            self.atom()?;
            let Some(repeat @ ('*' | '+' | '?')) = self.peek() else { continue };
            self.at += 1;
            self.insert_split(start);
            let body = start + 1;
            match repeat {
                '?' => self.instructions[start] = Instruction::Split(body, self.instructions.len()),
                '*' => {
                    self.instructions.push(Instruction::Jump(start));
                    self.instructions[start] = Instruction::Split(body, self.instructions.len());
                }
                _ => {
                    self.instructions[start] = Instruction::Jump(body);
                    let end = self.instructions.len() + 1;
                    self.instructions.push(Instruction::Split(body, end));
                }
            }
            match self.peek() {
                Some('?') => self.at += 1, // lazy: the same texts match
                Some('*' | '+') => return self.unsupported("a doubled repetition"),
                _ => {}
            }
        }
        Ok(())
    }

    fn atom(&mut self) -> Result<(), String> {
        let instruction = match self.next().expect("the caller has seen a character") {
            '^' => Instruction::Start,
            '$' => Instruction::End,
            '.' => Instruction::Any(true, vec![('\n', '\n')]),
            '\\' => {
                let (negated, ranges) = self.escape()?;
                Instruction::Any(negated, ranges)
            }
            '[' => self.class()?,
            '(' => {
                if self.peek() == Some('?') {
                    self.at += 1;
                    if self.next() != Some(':') {
                        return self.unsupported("(?");
                    }
                }
                self.alternatives()?;
                return if self.next() == Some(')') { Ok(()) } else { self.unsupported("an open (") };
            }
            c @ ('*' | '+' | '?' | '{') => return self.unsupported(&format!("{c} at this place")),
            c => Instruction::Any(false, vec![(c, c)]),
        };
        if self.peek() == Some('{') {
            return self.unsupported("a count in {}");
        }
        self.instructions.push(instruction);
        Ok(())
    }

    /// What follows a backslash: whether it is negated, and the characters.
    fn escape(&mut self) -> Result<(bool, Vec<(char, char)>), String> {
        let Some(c) = self.next() else { return self.unsupported("a last \\") };
        let ranges = match c.to_ascii_lowercase() {
            'd' => vec![('0', '9')],
            'w' => vec![('a', 'z'), ('A', 'Z'), ('0', '9'), ('_', '_')],
            's' => vec![(' ', ' '), ('\t', '\r')],
            _ if c.is_ascii_alphanumeric() => return self.unsupported(&format!("\\{c}")),
            _ => vec![(c, c)],
        };
        Ok((c.is_ascii_uppercase(), ranges))
    }

    fn class(&mut self) -> Result<Instruction, String> {
        let negated = self.peek() == Some('^');
        self.at += negated as usize;
        let mut ranges = Vec::new();
        loop {
            let first = match self.next() {
                None => return self.unsupported("an open ["),
                Some(']') if !ranges.is_empty() => return Ok(Instruction::Any(negated, ranges)),
                Some('\\') => match self.escape()? {
                    (false, more) if more.len() == 1 && more[0].0 == more[0].1 => more[0].0,
                    (false, more) => {
                        ranges.extend(more);
                        continue;
                    }
                    _ => return self.unsupported("a negated escape inside []"),
                },
                Some(c) => c,
            };
            if self.peek() == Some('-') && self.chars.get(self.at + 1).is_some_and(|c| *c != ']' && *c != '\\') {
                let last = self.chars[self.at + 1];
                self.at += 2;
                if last < first {
                    return self.unsupported("a range that runs backwards");
                }
                ranges.push((first, last));
            } else {
                ranges.push((first, first));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn patterns_match_as_pythons_re_match_does() {
        let cases = [
            (r"lm_head", "lm_head", true),
            (r"lm_head", "lm_head.more", true),
            (r"lm_head$", "lm_head.more", false),
            (r"head", "lm_head", false),
            (r".*head", "lm_head", true),
            (r".*\.mlp\..*_proj$", "model.layers.10.mlp.up_proj", true),
            (r".*\.mlp\..*_proj$", "model.layers.10.mlpx.up_proj", false),
            (r"model\.layers\.(0|1)\.", "model.layers.1.mlp", true),
            (r"model\.layers\.(0|1)\.", "model.layers.2.mlp", false),
            (r"model\.layers\.[0-9]+\.self_attn\.(?:q|k|v)_proj", "model.layers.31.self_attn.k_proj", true),
            (r"model\.layers\.[^0-2]\.x", "model.layers.2.x", false),
            (r"^vision_model\.", "vision_model.encoder", true),
            (r"\w+\.\d+?", "layers.12", true),
            (r"(a|b)*c", "ababc", true),
            (r"(a*)*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", false),
            (r"(a|ab)(c|bcd)$", "abcd", true),
            (r"ab?c|xyz", "ac", true),
            (r"ab?c|x(y|z)+", "xzzy", true),
            (r"ab?c|x(y|z)+$", "xzzyq", false),
            (r"", "anything", true),
            (r"x?", "", true),
            (r"[]a-]+$", "]a-", true),
            (r"[\w.]+$", "a.b_c", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(Pattern::new(pattern).unwrap().matches_start(text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn what_is_not_supported_is_said() {
        for bad in
            ["(", ")", "a)", "[", "[]", "*a", "a**", "a{2}", "(?=a)", "(?i)a", r"\b", r"\1", "\\", r"[\D]", "[z-a]"]
        {
            assert!(Pattern::new(bad).is_err(), "{bad}");
        }
        assert!(Pattern::new(&"(".repeat(100_000)).is_err());
        assert!(Pattern::new(&"(".repeat(500)).is_err());
    }
}
