/* spm.cc - sentencepiece behind a C interface: open from arrays or a .model file, encode.
 *
 * Owns:      the sentencepiece processor, the vocabulary that goes with it, and the rewriting of
 *            types that keeps typed text from becoming a control token.
 * Does not:  let a C++ exception out, read .model files (spm_file.c), or know the chat template.
 * Source:    sentencepiece_model.proto (field numbers below); the settings are Gemma's.
 */
#include "services/tokenizer/tokenizer.h"

#include <cmath>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include <sentencepiece_processor.h>

struct gm_tokenizer {
    sentencepiece::SentencePieceProcessor spm;
    gm_vocab vocab;
    bool newline_cuts; /* a text may be cut in front of a run of newlines without other ids */
    bool blank_cuts;   /* the same for a blank behind an ASCII letter or digit */

    gm_tokenizer() : spm(), vocab(), newline_cuts(false), blank_cuts(false)
    {
    }
    ~gm_tokenizer()
    {
        gm_vocab_close(&vocab);
    }
    gm_tokenizer(const gm_tokenizer &) = delete;
    gm_tokenizer &operator=(const gm_tokenizer &) = delete;
};

namespace
{

const char blank_mark[] = "\xE2\x96\x81"; /* U+2581, a blank inside a piece */
const int byte_pieces = 256;
const int message_max = 200;       /* bytes of a foreign message shown in a sentence */
const size_t cut_bytes = 64 << 10; /* a longer text is encoded in cuts: less memory, less time */

/* ---- protobuf, as far as a ModelProto needs it ----------------------------------------------- */

enum wire { WIRE_VARINT = 0, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

void put_varint(std::string &out, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        out.push_back(static_cast<char>((value & 0x7F) | 0x80));
    out.push_back(static_cast<char>(value));
}

void put_tag(std::string &out, unsigned field, wire kind)
{
    put_varint(out, (static_cast<uint64_t>(field) << 3) | kind);
}

void put_int(std::string &out, unsigned field, int64_t value)
{
    put_tag(out, field, WIRE_VARINT);
    put_varint(out, static_cast<uint64_t>(value));
}

void put_float(std::string &out, unsigned field, float value)
{
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    put_tag(out, field, WIRE_FIXED32);
    for (int shift = 0; shift < 32; shift += 8)
        out.push_back(static_cast<char>((bits >> shift) & 0xFF));
}

void put_bytes(std::string &out, unsigned field, std::string_view bytes)
{
    put_tag(out, field, WIRE_BYTES);
    put_varint(out, bytes.size());
    out.append(bytes);
}

/* Field numbers of sentencepiece_model.proto. */
enum { MODEL_PIECES = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3 };
enum {
    TRAINER_MODEL_TYPE = 3,
    TRAINER_VOCAB_SIZE = 4,
    TRAINER_BYTE_FALLBACK = 35,
    TRAINER_UNK_ID = 40,
    TRAINER_BOS_ID = 41,
    TRAINER_EOS_ID = 42,
    TRAINER_PAD_ID = 43,
    TRAINER_UNK_PIECE = 45,
};
enum { NORMALIZER_NAME = 1, NORMALIZER_PREFIX = 3, NORMALIZER_TRIM = 4, NORMALIZER_ESCAPE = 5 };
enum { MODEL_TYPE_BPE = 2 };

/* ---- pieces ---------------------------------------------------------------------------------- */

/* The pieces after the rewriting: what sentencepiece and the vocabulary get. */
struct piece_table {
    std::vector<std::string> texts; /* blanks as U+2581 */
    std::vector<int32_t> types;
    int32_t unk;
};

std::string replaced(std::string_view text, std::string_view from, std::string_view to)
{
    std::string out;
    for (size_t at = 0; at < text.size();) {
        bool hit = text.compare(at, from.size(), from) == 0;
        out.append(hit ? to : text.substr(at, 1));
        at += hit ? from.size() : 1;
    }
    return out;
}

/* "[PADn]": a row that fills a vocabulary up to the size of the embedding. */
bool pad_row(std::string_view text)
{
    const std::string_view start = "[PAD";
    if (text.size() < start.size() + 2 || text.substr(0, start.size()) != start ||
        text.back() != ']')
        return false;
    std::string_view digits = text.substr(start.size(), text.size() - start.size() - 1);
    return digits.find_first_not_of("0123456789") == std::string_view::npos;
}

/* Type the piece gets in our model. */
int32_t type_of(std::string_view text, int32_t given, bool is_unk)
{
    if (is_unk)
        return GM_TYPE_UNKNOWN;
    if (pad_row(text))
        return GM_TYPE_UNUSED;
    if (given == GM_TYPE_UNKNOWN || gm_control_name(text.data(), text.size()))
        return GM_TYPE_CONTROL;
    return given;
}

gm_status check_piece(uint32_t i, std::string_view text, float score, int32_t type, gm_err *err)
{
    if (text.empty() || text.size() > GM_PIECE_BYTES_MAX)
        return gm_fail(err, GM_INVALID,
                       "piece %u of the tokenizer has %zu bytes; 1 to %d are possible", i,
                       text.size(), GM_PIECE_BYTES_MAX);
    if (text.find('\0') != std::string_view::npos ||
        gm_utf8_bad(text.data(), text.size()) != text.size())
        return gm_fail(err, GM_INVALID, "piece %u of the tokenizer is no UTF-8 text", i);
    if (!std::isfinite(score))
        return gm_fail(err, GM_INVALID, "piece %u of the tokenizer has a score that is no number",
                       i);
    if (type < GM_TYPE_NORMAL || type > GM_TYPE_BYTE)
        return gm_fail(err, GM_INVALID, "piece %u of the tokenizer has type %d; types are %d to %d",
                       i, type, GM_TYPE_NORMAL, GM_TYPE_BYTE);
    return GM_OK;
}

/* The id given, else the piece named <unk>; -1 when there is neither. */
int32_t find_unk(const gm_piece_source *src)
{
    if (src->unk >= 0)
        return src->unk;
    const std::string_view name = gm_special_text(GM_SPECIAL_UNK);
    for (uint32_t i = 0; i < src->n; i++) {
        if (std::string_view(src->pieces[i], src->lens[i]) == name)
            return static_cast<int32_t>(i);
    }
    return -1;
}

gm_status check_source(const gm_piece_source *src, int32_t unk, gm_err *err)
{
    if (src->n == 0 || src->n > GM_VOCAB_IDS_MAX)
        return gm_fail(err, GM_INVALID, "the tokenizer has %u pieces; 1 to %d are possible", src->n,
                       GM_VOCAB_IDS_MAX);
    if (unk < 0 || static_cast<uint32_t>(unk) >= src->n)
        return gm_fail(err, GM_INVALID,
                       "the tokenizer's unknown token is %d of %u; it needs a piece <unk>", unk,
                       src->n);
    const int32_t given[] = { src->bos, src->eos, src->pad };
    for (int32_t id : given) {
        if (id < -1 || (id >= 0 && static_cast<uint32_t>(id) >= src->n))
            return gm_fail(err, GM_INVALID, "the tokenizer names special token %d of %u pieces", id,
                           src->n);
    }
    return GM_OK;
}

gm_status fill_table(const gm_piece_source *src, piece_table &table, gm_err *err)
{
    table.unk = find_unk(src);
    gm_status rc = check_source(src, table.unk, err);
    if (rc != GM_OK)
        return rc;
    int bytes = 0;
    table.texts.reserve(src->n);
    table.types.reserve(src->n);
    for (uint32_t i = 0; i < src->n; i++) {
        std::string_view text(src->pieces[i], src->lens[i]);
        rc = check_piece(i, text, src->scores[i], src->types[i], err);
        if (rc != GM_OK)
            return rc;
        int32_t type = type_of(text, src->types[i], static_cast<int32_t>(i) == table.unk);
        bytes += type == GM_TYPE_BYTE;
        table.types.push_back(type);
        table.texts.push_back(type == GM_TYPE_USER_DEFINED ? replaced(text, " ", blank_mark)
                                                           : std::string(text));
    }
    if (bytes != byte_pieces)
        return gm_fail(err, GM_INVALID,
                       "the tokenizer has %d byte pieces; it needs <0x00> to <0xFF>", bytes);
    return GM_OK;
}

std::string model_bytes(const gm_piece_source *src, const piece_table &table)
{
    std::string out, part;
    for (uint32_t i = 0; i < src->n; i++) {
        part.clear();
        put_bytes(part, PIECE_TEXT, table.texts[i]);
        put_float(part, PIECE_SCORE, src->scores[i]);
        put_int(part, PIECE_TYPE, table.types[i]);
        put_bytes(out, MODEL_PIECES, part);
    }
    part.clear();
    put_int(part, TRAINER_MODEL_TYPE, MODEL_TYPE_BPE);
    put_int(part, TRAINER_VOCAB_SIZE, src->n);
    put_int(part, TRAINER_BYTE_FALLBACK, 1);
    put_int(part, TRAINER_UNK_ID, table.unk);
    put_int(part, TRAINER_BOS_ID, src->bos);
    put_int(part, TRAINER_EOS_ID, src->eos);
    put_int(part, TRAINER_PAD_ID, src->pad);
    put_bytes(part, TRAINER_UNK_PIECE, table.texts[static_cast<size_t>(table.unk)]);
    put_bytes(out, MODEL_TRAINER, part);
    part.clear();
    put_bytes(part, NORMALIZER_NAME, "identity");
    put_int(part, NORMALIZER_PREFIX, 0);
    put_int(part, NORMALIZER_TRIM, 0);
    put_int(part, NORMALIZER_ESCAPE, 1);
    put_bytes(out, MODEL_NORMALIZER, part);
    return out;
}

/* The vocabulary of the edge: real blanks, and what an id decodes to. */
gm_status build_vocab(const piece_table &table, gm_vocab *vocab, gm_err *err)
{
    size_t n = table.texts.size();
    std::vector<std::string> texts;
    std::vector<const char *> pieces;
    std::vector<uint32_t> lens;
    std::vector<uint8_t> kinds;
    texts.reserve(n);
    for (size_t i = 0; i < n; i++) {
        int32_t type = table.types[i];
        bool text = type == GM_TYPE_NORMAL || type == GM_TYPE_USER_DEFINED;
        texts.push_back(text ? replaced(table.texts[i], blank_mark, " ") : table.texts[i]);
        pieces.push_back(texts[i].data());
        lens.push_back(static_cast<uint32_t>(texts[i].size()));
        kinds.push_back(static_cast<uint8_t>(text                   ? GM_PIECE_TEXT
                                             : type == GM_TYPE_BYTE ? GM_PIECE_BYTE
                                                                    : GM_PIECE_CONTROL));
    }
    const gm_vocab_source src = { static_cast<uint32_t>(n), pieces.data(), lens.data(),
                                  kinds.data() };
    return gm_vocab_build(vocab, &src, err);
}

/* User-defined pieces are cut out first, from left to right, the longest at each place. When the
 * newline is one and no other of them holds a newline after another character, no piece can cross
 * the place in front of a run of newlines.                                                      */
bool find_newline_cuts(const piece_table &table)
{
    bool newline = false;
    for (size_t i = 0; i < table.texts.size(); i++) {
        const std::string &text = table.texts[i];
        if (table.types[i] != GM_TYPE_USER_DEFINED || text.find('\n') == std::string::npos)
            continue;
        if (text.find_first_not_of('\n') != std::string::npos)
            return false;
        newline = newline || text == "\n";
    }
    return newline;
}

bool letter_or_digit(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* Every step of the merging is a piece, so nothing is merged over the place between a letter and a
 * blank when no piece holds a blank right behind a letter.                                      */
bool find_blank_cuts(const piece_table &table)
{
    for (size_t i = 0; i < table.texts.size(); i++) {
        const std::string &text = table.texts[i];
        if (table.types[i] == GM_TYPE_CONTROL || table.types[i] == GM_TYPE_BYTE)
            continue;
        for (size_t at = text.find(blank_mark, 1); at != std::string::npos;
             at = text.find(blank_mark, at + 1)) {
            if (letter_or_digit(text[at - 1]))
                return false;
        }
    }
    return true;
}

/* True when the text may be cut between at - 1 and at. */
bool cut_place(const gm_tokenizer *tok, std::string_view text, size_t at)
{
    if (text[at] == '\n')
        return tok->newline_cuts && text[at - 1] != '\n';
    return text[at] == ' ' && tok->blank_cuts && letter_or_digit(text[at - 1]);
}

/* Bytes of text to encode at once: all, or up to the last good place within cut_bytes (or, when
 * there is none, the first one behind).                                                         */
size_t cut_length(const gm_tokenizer *tok, std::string_view text)
{
    if (text.size() <= cut_bytes)
        return text.size();
    for (size_t at = cut_bytes; at > 0; at--) {
        if (cut_place(tok, text, at))
            return at;
    }
    for (size_t at = cut_bytes + 1; at < text.size(); at++) {
        if (cut_place(tok, text, at))
            return at;
    }
    return text.size();
}

gm_status open_pieces(const gm_piece_source *src, gm_tokenizer **out, gm_err *err)
{
    piece_table table;
    gm_status rc = fill_table(src, table, err);
    if (rc != GM_OK)
        return rc;
    auto tok = std::make_unique<gm_tokenizer>();
    tok->newline_cuts = find_newline_cuts(table);
    tok->blank_cuts = find_blank_cuts(table);
    rc = build_vocab(table, &tok->vocab, err);
    if (rc != GM_OK)
        return rc;
    const auto status = tok->spm.LoadFromSerializedProto(model_bytes(src, table));
    if (!status.ok())
        return gm_fail(err, GM_INVALID, "sentencepiece refuses the tokenizer: %.*s", message_max,
                       status.error_message());
    *out = tok.release();
    return GM_OK;
}

gm_status encode_cut(const gm_tokenizer *tok, std::string_view text, gm_ids *ids, gm_err *err)
{
    std::vector<int> found;
    const auto status = tok->spm.Encode(text, &found);
    if (!status.ok())
        return gm_fail(err, GM_INTERNAL, "sentencepiece cannot encode the text: %.*s", message_max,
                       status.error_message());
    for (int id : found) {
        if (gm_vocab_is_control(&tok->vocab, id))
            return gm_fail(err, GM_INTERNAL, "a text gave the control token %d; report this", id);
    }
    static_assert(sizeof(int) == sizeof(int32_t), "ids are copied as they are");
    return gm_ids_append(ids, found.data(), found.size(), err);
}

gm_status encode(const gm_tokenizer *tok, std::string_view text, gm_ids *ids, gm_err *err)
{
    gm_status rc = GM_OK;
    while (!text.empty() && rc == GM_OK) {
        size_t len = cut_length(tok, text);
        rc = encode_cut(tok, text.substr(0, len), ids, err);
        text.remove_prefix(len);
    }
    return rc;
}

/* Runs `work` and turns every exception into a status. */
template <class F> gm_status guarded(const char *what, gm_err *err, F work)
{
    try {
        return work();
    } catch (const std::bad_alloc &) {
        return gm_fail(err, GM_EXHAUSTED, "no memory to %s", what);
    } catch (const std::exception &e) {
        return gm_fail(err, GM_INTERNAL, "cannot %s: %.*s", what, message_max, e.what());
    } catch (...) {
        return gm_fail(err, GM_INTERNAL, "cannot %s: unknown C++ exception", what);
    }
}

} // namespace

gm_status gm_tokenizer_open_pieces(const gm_piece_source *src, gm_tokenizer **out, gm_err *err)
{
    *out = nullptr;
    return guarded("open the tokenizer", err, [&] { return open_pieces(src, out, err); });
}

gm_status gm_tokenizer_open_file(const char *path, gm_tokenizer **out, gm_err *err)
{
    *out = nullptr;
    gm_spm_file file;
    gm_status rc = gm_spm_file_open(&file, path, err);
    if (rc != GM_OK)
        return rc;
    rc = gm_tokenizer_open_pieces(&file.src, out, err);
    if (rc != GM_OK)
        gm_err_prefix(err, "%s", path);
    gm_spm_file_close(&file);
    return rc;
}

void gm_tokenizer_close(gm_tokenizer **tok)
{
    delete *tok;
    *tok = nullptr;
}

const gm_vocab *gm_tokenizer_vocab(const gm_tokenizer *tok)
{
    return &tok->vocab;
}

gm_status gm_tokenizer_encode(const gm_tokenizer *tok, const char *text, size_t len, gm_ids *ids,
                              gm_err *err)
{
    if (len > GM_ENCODE_BYTES_MAX)
        return gm_fail(err, GM_EXHAUSTED, "the text has %zu bytes; at most %d are possible", len,
                       GM_ENCODE_BYTES_MAX);
    if (len == 0)
        return GM_OK;
    size_t bad = gm_utf8_bad(text, len);
    if (bad != len)
        return gm_fail(err, GM_INVALID, "the text is not UTF-8 at byte %zu; send it as UTF-8", bad);
    size_t before = ids->n;
    gm_status rc = guarded("encode the text", err,
                           [&] { return encode(tok, std::string_view(text, len), ids, err); });
    if (rc != GM_OK)
        ids->n = before;
    return rc;
}
