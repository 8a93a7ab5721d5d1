//! `bindgen IN.wasm OUT_FOLDER`: writes the JavaScript that goes with a module, as `wasm-bindgen --target web` does.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [input, folder] = args.as_slice() else {
        eprintln!("usage: bindgen IN.wasm OUT_FOLDER");
        return ExitCode::from(2);
    };
    let written = wasm_bindgen_cli_support::Bindgen::new()
        .input_path(input)
        .remove_name_section(true)
        .remove_producers_section(true)
        .typescript(false)
        .omit_default_module_path(false)
        .web(true)
        .and_then(|bindgen| bindgen.generate(folder));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bindgen: {error:?}");
            ExitCode::FAILURE
        }
    }
}
