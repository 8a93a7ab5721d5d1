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
