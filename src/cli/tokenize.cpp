#include <charconv>
#include <iostream>
#include <iterator>

#include "cli/verb.h"
#include "core/files.h"
#include "model/load_tokenizer.h"

namespace nibble::cli {
namespace {

struct Options {
  std::string model;
  std::string text;
  std::string file;
  std::string ids;
  bool decode = false;
  bool special = false;
};

// "1,2 3": numbers between commas and white space.
std::vector<TokenId> parse_ids(std::string_view list) {
  constexpr std::string_view kSeparators = ", \t\r\n[]";
  std::vector<TokenId> ids;
  for (size_t at = list.find_first_not_of(kSeparators); at != std::string_view::npos;
       at = list.find_first_not_of(kSeparators, at)) {
    const size_t end = std::min(list.find_first_of(kSeparators, at), list.size());
    TokenId id = 0;
    const auto [stop, status] = std::from_chars(list.data() + at, list.data() + end, id);
    if (status != std::errc() || stop != list.data() + end || id < 0)
      throw Error(ErrorKind::kUsage, cat("--decode: '", list.substr(at, end - at), "' is not a token id"));
    ids.push_back(id);
    at = end;
  }
  return ids;
}

std::string read_input(const Options& options, bool text_given) {
  if (text_given) return options.text;
  if (!options.file.empty() && options.file != "-") return read_text_file(options.file);
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

void tokenize(const Options& options, const Common& common, bool text_given) {
  const auto tokenizer = load_tokenizer(options.model);
  if (options.decode) {
    const std::string text = tokenizer->decode(parse_ids(options.ids), /*skip_special=*/false);
    if (common.prints()) std::cout << text << '\n';
    common.emit({{"text", text}});
    return;
  }
  const auto ids = tokenizer->encode(read_input(options, text_given), options.special);
  if (common.prints()) {
    for (size_t i = 0; i < ids.size(); ++i) std::cout << (i == 0 ? "" : " ") << ids[i];
    std::cout << '\n';
  }
  common.emit({{"ids", ids}});
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto common = std::make_shared<Common>();
  auto options = std::make_shared<Options>();
  CLI::App& verb = add_verb(app, "tokenize", "Text to token ids, and back",
                            "  nibble tokenize model.gguf --text 'Hello world'\n"
                            "  nibble tokenize model/ --file book.txt --json ids.json\n"
                            "  nibble tokenize model/ --decode '19556,905'",
                            common);
  verb.add_option("MODEL", options->model, "a model, or a folder with only a tokenizer, or a vocabulary-only GGUF")
      ->required();
  CLI::Option* text = verb.add_option("--text", options->text, "text to tokenize");
  CLI::Option* file =
      verb.add_option("--file", options->file, "file to tokenize; without --text and --file: standard input")
          ->excludes(text);
  CLI::Option* ids = verb.add_option("--decode", options->ids, "token ids to turn into text, between commas or spaces")
                         ->excludes(text)
                         ->excludes(file);
  verb.add_flag("--special", options->special, "add BOS and EOS as the model wants them");
  verb.callback([=] {
    common->apply();
    options->decode = ids->count() > 0;
    tokenize(*options, *common, text->count() > 0);
  });
}

}  // namespace nibble::cli
