#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <iostream>
#include <optional>

#include "cli/line_reader.h"
#include "cli/model_choices.h"
#include "cli/verb.h"
#include "core/interrupt.h"
#include "core/text.h"
#include "model/sampler.h"
#include "pipeline/chat.h"
#include "pipeline/generate.h"
#include "pipeline/loaded_model.h"

namespace nibble::cli {
namespace {

constexpr const char* kExamples =
    "  nibble generate model.gguf -p 'The capital of France is' -n 32 --greedy\n"
    "  nibble generate model/ --chat                         (a conversation; /exit or Ctrl-D ends it)\n"
    "  nibble generate model/ --chat -p 'Name three colours' --system 'Be brief'\n"
    "  nibble generate model/ -p 'Once upon a time' --temp 0.7 --top-p 0.9 --seed 3 --json -\n"
    "  nibble generate model/ --scheme w4a16 -p 'Hello'      (quantized on the fly)\n"
    "  nibble generate model/ --prompt-ids 1,15,27 --greedy  (for checkpoints without a tokenizer)\n";

// A prompt shorter than this is read before a progress bar could be seen.
constexpr size_t kLongPrompt = 1024;

struct Options {
  Common common;
  std::string model, ids, system;
  std::optional<std::string> prompt;
  size_t max_tokens = 128;
  SamplerOptions sampler;
  bool chat = false, ignore_eos = false;
  RunFlags flags;
};

std::vector<TokenId> parse_ids(const std::string& text) {
  std::vector<TokenId> ids;
  for (const std::string& part : split(text, ',')) {
    const size_t begin = part.find_first_not_of(' ');
    const std::string digits =
        begin == std::string::npos ? "" : part.substr(begin, part.find_last_not_of(' ') + 1 - begin);
    TokenId id = 0;
    const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), id);
    if (status != std::errc() || end != digits.data() + digits.size() || id < 0)
      throw Error(ErrorKind::kUsage, cat("--prompt-ids: '", part, "' is not a token id; write --prompt-ids 1,2,3"));
    ids.push_back(id);
  }
  return ids;
}

// One model, one session, and where the text goes.
class Generator {
 public:
  explicit Generator(const Options& o)
      : o_(o),
        loaded_(load_model(o.model, o.flags.choices_for_tokens(), *o.common.progress("load"))),
        session_(*loaded_.model, o.flags.cache_type()),
        sampler_(o.sampler, loaded_.model->config().vocab_size) {
    o.flags.note_load(loaded_, o.common);
    generate_.max_tokens = o.max_tokens;
    if (!o.ignore_eos) generate_.eos = eos_tokens(*loaded_.source, loaded_.tokenizer.get());
  }

  const LoadedModel& loaded() const { return loaded_; }

  struct Answer {
    std::string text;
    std::vector<TokenId> prompt;
    Generation generation;
    size_t prefilled = 0;
    double prefill_seconds = 0;

    double prefill_tps() const { return prefill_seconds > 0 ? static_cast<double>(prefilled) / prefill_seconds : 0; }
    double decode_tps() const {
      return generation.seconds > 0 ? static_cast<double>(generation.decoded) / generation.seconds : 0;
    }
    OrderedJson json() const {
      return {{"text", text},
              {"prompt_tokens", prompt},
              {"tokens", generation.tokens},
              {"prefill_tps", prefill_tps()},
              {"decode_tps", decode_tps()},
              {"stop", name(generation.stop)}};
    }
    std::string summary() const {
      return cat("prompt ", prefilled, " tokens at ", format_fixed(prefill_tps(), 1), " tok/s; answer ",
                 generation.tokens.size(), " tokens at ", format_fixed(decode_tps(), 1),
                 " tok/s; stop: ", name(generation.stop));
    }
  };

  Answer run(std::vector<TokenId> prompt) {
    Answer answer;
    answer.prompt = std::move(prompt);
    answer.generation.stop = StopReason::kInterrupted;
    std::unique_ptr<Progress> bar;
    if (answer.prompt.size() >= kLongPrompt) bar = o_.common.progress("prompt");
    const bool complete = session_.read(answer.prompt, o_.max_tokens, bar ? *bar : no_progress());
    bar.reset();
    if (!complete) return answer;
    answer.prefilled = session_.prefilled();
    answer.prefill_seconds = session_.prefill_seconds();

    std::optional<StreamDecoder> decoder;
    if (loaded_.tokenizer) decoder.emplace(*loaded_.tokenizer, /*skip_special=*/true);
    const auto emit = [&](const std::string& piece) {
      answer.text += piece;
      if (o_.common.prints()) std::cout << piece << std::flush;
    };
    answer.generation = session_.write(sampler_, generate_, [&](TokenId token) {
      if (decoder) emit(decoder->add(token));
    });
    if (decoder) emit(decoder->finish());
    if (o_.common.prints() && !answer.text.ends_with('\n')) std::cout << std::endl;
    return answer;
  }

 private:
  const Options& o_;
  LoadedModel loaded_;
  Session session_;
  Sampler sampler_;
  GenerateOptions generate_;
};

void finish(const Options& o, const Generator& generator, const Generator::Answer& answer) {
  o.common.note(answer.summary());
  OrderedJson result = answer.json();
  o.flags.add_checks(generator.loaded(), result);
  o.common.emit(result);
  if (answer.generation.stop == StopReason::kInterrupted) throw Error(ErrorKind::kInterrupted, "interrupted");
}

std::vector<ChatMessage> opening(const Options& o) {
  if (o.system.empty()) return {};
  return {{"system", o.system}};
}

// Reads lines, answers, keeps the conversation. Ctrl-C ends an answer, at the prompt the session.
void converse(const Options& o, Generator& generator, const ChatFormat& format) {
  const bool terminal = isatty(STDIN_FILENO) == 1 && o.common.prints();
  if (terminal) o.common.note("/exit or Ctrl-D ends the conversation, /clear starts a new one, Ctrl-C stops an answer");
  std::vector<ChatMessage> messages = opening(o);
  OrderedJson turns = OrderedJson::array();
  LineReader lines;
  for (;;) {
    if (terminal) std::cout << "> " << std::flush;
    const auto line = lines.next();
    if (!line || *line == "/exit") break;
    if (line->find_first_not_of(" \t") == std::string::npos) continue;
    if (*line == "/clear") {
      messages = opening(o);
      continue;
    }
    messages.push_back({"user", *line});
    try {
      const Generator::Answer answer = generator.run(format.encode(messages));
      messages.push_back({"assistant", answer.text});
      turns.push_back(answer.json());
      if (terminal) o.common.note(answer.summary());
    } catch (const Error& error) {
      // A line that cannot be answered (too long, not UTF-8) does not end the conversation.
      if (error.kind() != ErrorKind::kUsage || !terminal) throw;
      messages.pop_back();
      std::cerr << "nibble: " << error.what() << '\n';
    }
    forget_interrupt();
  }
  if (terminal) std::cout << '\n';
  OrderedJson conversation = OrderedJson::array();
  for (const ChatMessage& message : messages)
    conversation.push_back({{"role", message.role}, {"content", message.content}});
  OrderedJson result = {{"messages", conversation}, {"turns", turns}};
  o.flags.add_checks(generator.loaded(), result);
  o.common.emit(result);
}

void run(const Options& o) {
  o.common.apply();
  std::vector<TokenId> ids;
  if (!o.ids.empty()) ids = parse_ids(o.ids);
  if (!o.ids.empty() && (o.chat || o.prompt))
    throw Error(ErrorKind::kUsage, "--prompt-ids replaces -p and --chat: give one of them");
  if (!o.system.empty() && !o.chat)
    throw Error(ErrorKind::kUsage, "--system is a message of a conversation: add --chat");
  std::optional<std::string> prompt = o.prompt;
  if (!prompt && !o.chat && o.ids.empty()) {
    if (isatty(STDIN_FILENO) == 1)
      throw Error(ErrorKind::kUsage,
                  "nothing to continue: give -p PROMPT, --prompt-ids IDS, --chat for a conversation, or a text on "
                  "standard input");
    prompt = read_standard_input();
  }

  Generator generator(o);
  if (!o.ids.empty()) return finish(o, generator, generator.run(std::move(ids)));
  generator.loaded().need_tokenizer();
  const Tokenizer& tokenizer = *generator.loaded().tokenizer;
  if (!o.chat) return finish(o, generator, generator.run(tokenizer.encode(*prompt, /*add_special=*/true)));
  const ChatFormat format(*generator.loaded().source, tokenizer);
  if (!prompt) return converse(o, generator, format);
  std::vector<ChatMessage> messages = opening(o);
  messages.push_back({"user", *prompt});
  finish(o, generator, generator.run(format.encode(messages)));
}

}  // namespace

void add_generate(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  CLI::App& verb = add_verb(app, "generate", "continue a text, or hold a conversation", kExamples,
                            std::shared_ptr<Common>(o, &o->common));
  verb.add_option("model", o->model, "folder or .gguf file")->required();
  verb.add_option("-p,--prompt", o->prompt,
                  "text to continue, or with --chat the user's message (default: standard input)");
  verb.add_option("--prompt-ids", o->ids, "token ids to continue: 1,2,3");
  verb.add_option("-n,--max-tokens", o->max_tokens, "tokens to generate at most")->capture_default_str();
  verb.add_flag("--chat", o->chat, "apply the model's chat template; without -p an interactive session");
  verb.add_option("--system", o->system, "system message of the conversation");
  verb.add_flag("--greedy", o->sampler.greedy, "always take the likeliest token");
  verb.add_option("--temp", o->sampler.temperature, "temperature; 0 is greedy")->capture_default_str();
  verb.add_option("--top-k", o->sampler.top_k, "draw from the K likeliest tokens; 0: all")->capture_default_str();
  verb.add_option("--top-p", o->sampler.top_p, "draw from the likeliest tokens that make up this probability; 1: all")
      ->capture_default_str();
  verb.add_option("--min-p", o->sampler.min_p, "leave out tokens less likely than this share of the likeliest; 0: none")
      ->capture_default_str();
  verb.add_option("--repeat-penalty", o->sampler.repeat_penalty, "divide the logits of tokens seen before; 1: off")
      ->capture_default_str();
  verb.add_option("--seed", o->sampler.seed, "of the random numbers")->capture_default_str();
  verb.add_flag("--ignore-eos", o->ignore_eos, "go on past the end of the text");
  add_run_flags(verb, o->flags, "auto", "f16");
  verb.callback([o] { run(*o); });
}

}  // namespace nibble::cli
