// Microsoft's two compilers, under Wine: what wgpu's DX12 backend gives them and how it asks for it.
//   hlsl.exe DLL FILE...    *.5_1.hlsl by d3dcompiler_47.dll (FXC), *.6_0.hlsl by dxcompiler.dll (DXC)
// Wine has a d3dcompiler_47.dll of its own: another file name keeps that away. See windows.sh.
#include <windows.h>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

struct Blob : IUnknown {
    virtual void *__stdcall pointer() = 0;
    virtual SIZE_T __stdcall size() = 0;
};
struct Source {
    const void *text;
    SIZE_T size;
    UINT encoding;
};
struct Result : IUnknown {
    virtual HRESULT __stdcall status(HRESULT *) = 0;
    virtual HRESULT __stdcall object(Blob **) = 0;
    virtual HRESULT __stdcall messages(Blob **) = 0;
};
struct Compiler : IUnknown {
    virtual HRESULT __stdcall compile(const Source *, const wchar_t **, UINT, void *, REFIID, void **) = 0;
};
static const GUID COMPILER = {0x73e22d93, 0xe6ce, 0x47f3, {0xb5, 0xbf, 0xf0, 0x66, 0x4f, 0x39, 0xc1, 0xb0}};
static const GUID COMPILER3 = {0x228b4687, 0x5a6a, 0x4730, {0x90, 0x0c, 0x97, 0x02, 0xb2, 0x20, 0x3f, 0x54}};
static const GUID RESULT = {0x58346cda, 0xdde7, 0x4497, {0x94, 0x61, 0x6f, 0x87, 0xaf, 0x5e, 0x06, 0x59}};

typedef HRESULT(__stdcall *Create)(REFIID, REFIID, void **);
typedef HRESULT(__stdcall *Compile)(const void *, SIZE_T, const char *, const void *, void *, const char *, const char *, UINT, UINT, Blob **, Blob **);

static std::string text_of(Blob *blob) { return blob ? std::string((char *)blob->pointer(), blob->size()) : ""; }

static HRESULT by_fxc(HMODULE library, const std::string &text, std::string &said) {
    auto compile = (Compile)(void *)GetProcAddress(library, "D3DCompile");
    if (!compile) return E_NOINTERFACE;
    Blob *code = nullptr, *errors = nullptr;
    const UINT STRICTNESS = 1 << 11;
    HRESULT result = compile(text.data(), text.size(), nullptr, nullptr, nullptr, "main", "cs_5_1", STRICTNESS, 0, &code, &errors);
    said = text_of(errors);
    return result;
}

static HRESULT by_dxc(HMODULE library, const std::string &text, std::string &said) {
    static Compiler *compiler = nullptr;
    if (!compiler) {
        auto create = (Create)(void *)GetProcAddress(library, "DxcCreateInstance");
        HRESULT made = create ? create(COMPILER, COMPILER3, (void **)&compiler) : E_NOINTERFACE;
        if (FAILED(made)) return made;
    }
    const wchar_t *arguments[] = {L"-E", L"main", L"-T", L"cs_6_0", L"-HV", L"2018", L"-Ges"};
    const Source source = {text.data(), text.size(), CP_UTF8};
    Result *result = nullptr;
    HRESULT status = compiler->compile(&source, arguments, 7, nullptr, RESULT, (void **)&result);
    if (FAILED(status)) return status;
    result->status(&status);
    Blob *messages = nullptr;
    result->messages(&messages);
    said = text_of(messages);
    result->Release();
    return status;
}

int main(int count, char **arguments) {
    if (count < 3) return puts("usage: hlsl.exe DLL FILE.hlsl..."), 2;
    HMODULE library = LoadLibraryA(arguments[1]);
    if (!library) return printf("%s does not load: %lu\n", arguments[1], GetLastError()), 2;
    int faults = 0;
    double longest = 0;
    std::string slowest;
    DWORD begun = GetTickCount();
    for (int i = 2; i < count; i++) {
        std::string path = arguments[i], said;
        std::ifstream in(path, std::ios::binary);
        std::string text((std::istreambuf_iterator<char>(in)), {});
        bool fxc = path.find(".5_1.hlsl") != std::string::npos;
        DWORD started = GetTickCount();
        HRESULT result = text.empty() ? E_INVALIDARG : fxc ? by_fxc(library, text, said) : by_dxc(library, text, said);
        double seconds = (GetTickCount() - started) / 1000.0;
        if (seconds > longest) longest = seconds, slowest = path;
        if (FAILED(result)) {
            faults++;
            printf("%s: %08lx %s\n", path.c_str(), result, said.c_str());
        }
        fflush(stdout);
    }
    printf("%d shaders, %d faults, %.1f s; the longest took %.1f s: %s\n", count - 2, faults, (GetTickCount() - begun) / 1000.0, longest, slowest.c_str());
    return faults > 0;
}
