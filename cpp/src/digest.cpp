#include "digest.hpp"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>

namespace vitaie::detail {

namespace {

constexpr std::size_t digest_digits = 64;
constexpr std::string_view hex_digits = "0123456789abcdef";

void ensure(bool done) {
    if (!done) {
        throw std::runtime_error("OpenSSL has no sha256");
    }
}

void write_number(std::string& text, double number) {
    number += 0.0;  // -0.0 + 0.0 is 0.0
    std::uint64_t bits = 0;
    static_assert(sizeof bits == sizeof number);
    std::memcpy(&bits, &number, sizeof bits);
    for (int shift = 60; shift >= 0; shift -= 4) {
        text += hex_digits[bits >> shift & 0xF];
    }
}

void write_string(std::string& text, std::string_view value) {
    static constexpr std::string_view special = "\"\\\b\f\n\r\t";
    static constexpr std::string_view letters = "\"\\bfnrt";
    text += '"';
    for (const char byte : value) {
        const auto code = static_cast<unsigned char>(byte);
        if (const std::size_t found = special.find(byte); found != std::string_view::npos) {
            text += '\\';
            text += letters[found];
        } else if (code < 0x20) {
            text += "\\u00";
            text += hex_digits[code >> 4];
            text += hex_digits[code & 0xF];
        } else {
            text += byte;
        }
    }
    text += '"';
}

void write(std::string& text, const json::Value& value);

void write_array(std::string& text, const json::Array& elements) {
    text += '[';
    for (std::size_t index = 0; index < elements.size(); ++index) {
        text += index == 0 ? "" : ",";
        write(text, elements[index]);
    }
    text += ']';
}

void write_object(std::string& text, const json::Object& members) {
    std::vector<const json::Member*> sorted;
    for (const auto& member : members) {
        sorted.push_back(&member);
    }
    // std::string compares bytes as unsigned, and UTF-8 sorts by them as by code points.
    std::sort(sorted.begin(), sorted.end(),
              [](const auto* one, const auto* other) { return one->key < other->key; });
    text += '{';
    for (std::size_t index = 0; index < sorted.size(); ++index) {
        text += index == 0 ? "" : ",";
        write_string(text, sorted[index]->key);
        text += ':';
        write(text, sorted[index]->value);
    }
    text += '}';
}

void write(std::string& text, const json::Value& value) {
    if (const auto* members = value.as<json::Object>()) {
        write_object(text, *members);
    } else if (const auto* elements = value.as<json::Array>()) {
        write_array(text, *elements);
    } else if (const auto* string = value.as<std::string>()) {
        write_string(text, *string);
    } else if (const auto* integer = value.as<std::int64_t>()) {
        write_number(text, static_cast<double>(*integer));
    } else if (const auto* real = value.as<double>()) {
        write_number(text, *real);
    } else if (const auto* boolean = value.as<bool>()) {
        text += *boolean ? "true" : "false";
    } else if (value.as<std::nullptr_t>() != nullptr) {
        text += "null";
    } else {
        throw std::logic_error("no canonical text for a number that was refused");
    }
}

/// Returns where the 64 digits after the key at `place` begin, if they are there.
std::optional<std::size_t> digits_after(std::string_view data, std::size_t place) {
    const auto skip_space = [&] {
        place = std::min(data.find_first_not_of(" \t\r\n", place), data.size());
    };
    const auto take = [&](char byte) {
        const bool there = place < data.size() && data[place] == byte;
        place += there ? 1 : 0;
        return there;
    };
    skip_space();
    if (!take(':')) {
        return std::nullopt;
    }
    skip_space();
    if (!take('"')) {
        return std::nullopt;
    }
    const std::size_t end = std::min(data.find_first_not_of(hex_digits, place), data.size());
    if (end != place + digest_digits || end == data.size() || data[end] != '"') {
        return std::nullopt;
    }
    return place;
}

}  // namespace

void Sha256::Free::operator()(evp_md_ctx_st* context) const {
    EVP_MD_CTX_free(context);
}

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
    ensure(context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
}

void Sha256::update(const void* data, std::size_t size) {
    ensure(EVP_DigestUpdate(context_.get(), data, size) == 1);
}

std::string Sha256::hexadecimal() {
    std::array<unsigned char, digest_digits / 2> digest{};
    ensure(EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr) == 1);
    std::string text;
    for (const unsigned byte : digest) {
        text += hex_digits[byte >> 4];
        text += hex_digits[byte & 0xF];
    }
    return text;
}

std::string sha256(std::string_view data) {
    Sha256 hash;
    hash.update(data.data(), data.size());
    return hash.hexadecimal();
}

std::string canonical(const json::Value& value) {
    std::string text;
    write(text, value);
    return text;
}

std::optional<std::string> manifest_digest(std::string_view data) {
    static constexpr std::string_view key = "\"manifest_digest\"";
    const std::size_t place = data.find(key);
    if (place == std::string_view::npos ||
        data.find(key, place + key.size()) != std::string_view::npos) {
        return std::nullopt;
    }
    const auto digits = digits_after(data, place + key.size());
    if (!digits) {
        return std::nullopt;
    }
    Sha256 hash;
    const std::string zeros(digest_digits, '0');
    const std::string_view rest = data.substr(*digits + digest_digits);
    hash.update(data.data(), *digits);
    hash.update(zeros.data(), zeros.size());
    hash.update(rest.data(), rest.size());
    return hash.hexadecimal();
}

}  // namespace vitaie::detail
