//! Captions as a Parquet file: `image`, `text`, `ids`, `original`, `error`, `code`, `model`.

use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, Encoding};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use qllama::{Error, Result};

use super::record::Record;
use crate::whole::write_whole;

const SCHEMA: &str = "
    message captions {
        REQUIRED BYTE_ARRAY image (UTF8);
        OPTIONAL BYTE_ARRAY text (UTF8);
        REPEATED INT32 ids;
        OPTIONAL BYTE_ARRAY original (UTF8);
        OPTIONAL BYTE_ARRAY error (UTF8);
        OPTIONAL BYTE_ARRAY code (UTF8);
        REQUIRED BYTE_ARRAY model (UTF8);
    }";

/// Records that are written together.
const ROWS_OF_GROUP: usize = 100_000;

/// Writes the file whole.
///
/// # Errors
/// `E_IO`, and those of the records.
pub fn write(path: &Path, records: impl Iterator<Item = Result<Record>>) -> Result<()> {
    let mut wrong = None;
    write_whole(path, |file| {
        let other = |e: ParquetError| std::io::Error::other(e.to_string());
        let schema = Arc::new(parse_message_type(SCHEMA).expect("the schema is right"));
        let properties = WriterProperties::builder().set_compression(Compression::UNCOMPRESSED);
        let properties = Arc::new(properties.set_encoding(Encoding::PLAIN).build());
        let mut writer = SerializedFileWriter::new(file, schema, properties).map_err(other)?;
        let mut records = records.filter_map(|record| record.map_err(|error| wrong = Some(error)).ok()).peekable();
        while records.peek().is_some() {
            let rows: Vec<Record> = records.by_ref().take(ROWS_OF_GROUP).collect();
            let mut group = writer.next_row_group().map_err(other)?;
            write_group(&mut group, &rows).map_err(other)?;
            group.close().map_err(other)?;
        }
        writer.close().map(|_| ()).map_err(other)
    })?;
    wrong.map_or(Ok(()), |error: Error| Err(error))
}

type Group<'a, 'f> = SerializedRowGroupWriter<'a, &'f mut std::fs::File>;

fn write_group(group: &mut Group<'_, '_>, rows: &[Record]) -> std::result::Result<(), ParquetError> {
    strings(group, rows, false, |row| Some(&row.image))?;
    strings(group, rows, true, |row| row.text.as_deref())?;
    // A list's first element begins a row (repetition 0); a row without elements is not defined (definition 0).
    let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        values.extend(row.ids.iter().map(|&id| id as i32));
        defined.extend(row.ids.iter().map(|_| 1));
        repeated.extend((0..row.ids.len()).map(|i| i16::from(i > 0)));
        if row.ids.is_empty() {
            defined.push(0);
            repeated.push(0);
        }
    }
    column::<Int32Type>(group, &values, Some(&defined), Some(&repeated))?;
    strings(group, rows, true, |row| row.original.as_deref())?;
    strings(group, rows, true, |row| row.error.as_deref())?;
    strings(group, rows, true, |row| row.code.as_deref())?;
    strings(group, rows, false, |row| Some(&row.model))
}

fn strings(
    group: &mut Group<'_, '_>,
    rows: &[Record],
    optional: bool,
    of: impl Fn(&Record) -> Option<&str>,
) -> std::result::Result<(), ParquetError> {
    let values: Vec<ByteArray> = rows.iter().filter_map(&of).map(ByteArray::from).collect();
    let defined: Vec<i16> = rows.iter().map(|row| i16::from(of(row).is_some())).collect();
    column::<ByteArrayType>(group, &values, optional.then_some(&defined[..]), None)
}

fn column<T: DataType>(
    group: &mut Group<'_, '_>,
    values: &[T::T],
    defined: Option<&[i16]>,
    repeated: Option<&[i16]>,
) -> std::result::Result<(), ParquetError> {
    let mut column = group.next_column()?.expect("as many columns as the schema has");
    column.typed::<T>().write_batch(values, defined, repeated)?;
    column.close()
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::{Field, Row};

    use super::*;

    fn record(image: &str, text: Option<&str>, ids: &[u32]) -> Record {
        let failed = text.is_none();
        Record {
            image: image.into(),
            text: text.map(String::from),
            ids: ids.to_vec(),
            original: text.filter(|text| text.is_empty()).map(|_| "what \"stood\" there\n".into()),
            error: failed.then(|| "no picture".into()),
            code: failed.then(|| "E_IMAGE".into()),
            model: "demo".into(),
        }
    }

    /// A column's text, or none.
    fn text(row: &Row, name: &str) -> Option<String> {
        match row.get_column_iter().find(|(column, _)| *column == name).expect("a column").1 {
            Field::Str(text) => Some(text.clone()),
            Field::Null => None,
            other => panic!("{name}: {other}"),
        }
    }

    fn ids(row: &Row) -> Vec<u32> {
        match row.get_column_iter().find(|(column, _)| *column == "ids").expect("a column").1 {
            Field::ListInternal(list) => list
                .elements()
                .iter()
                .map(|id| if let Field::Int(id) = id { *id as u32 } else { panic!("{id}") })
                .collect(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.parquet");
        let rows = || {
            [
                record("a/ä 猫.png", Some("a cat"), &[5, 7, 9]),
                record("b.png", None, &[]),
                record("c.png", Some(""), &[2]),
            ]
        };
        write(&file, rows().into_iter().map(Ok)).unwrap();
        let reader = SerializedFileReader::new(std::fs::File::open(&file).unwrap()).unwrap();
        let found: Vec<Row> = reader.get_row_iter(None).unwrap().map(|row| row.unwrap()).collect();
        assert_eq!(found.len(), 3);
        for (row, expected) in found.iter().zip(rows()) {
            assert_eq!(text(row, "image").as_ref(), Some(&expected.image));
            assert_eq!(text(row, "text"), expected.text);
            assert_eq!(text(row, "original"), expected.original);
            assert_eq!(text(row, "error"), expected.error);
            assert_eq!(text(row, "code"), expected.code);
            assert_eq!(text(row, "model").as_ref(), Some(&expected.model));
            assert_eq!(ids(row), expected.ids);
        }
        // No rows are a file, too; an error of the rows is one of the whole.
        write(&file, std::iter::empty()).unwrap();
        let reader = SerializedFileReader::new(std::fs::File::open(&file).unwrap()).unwrap();
        assert_eq!(reader.get_row_iter(None).unwrap().count(), 0);
        let error = Error::State { reason: "a line of another program".into() };
        assert!(write(&file, [Ok(record("a", None, &[])), Err(error.clone())].into_iter()) == Err(error));
    }
}
