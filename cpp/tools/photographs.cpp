#include "photographs.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <iterator>
#include <string_view>
#include <system_error>

#include "error.hpp"
#include "utf8.hpp"

namespace vitaie::edge {

namespace {

namespace fs = std::filesystem;
using detail::Code;
using detail::Error;
using Names = std::vector<std::string>;

constexpr std::array<std::string_view, 3> image_suffixes = {".jpg", ".jpeg", ".png"};
constexpr std::array<std::string_view, 3> left_behind = {"thumbs.db", "desktop.ini", "__macosx"};
constexpr std::array<std::string_view, 2> label_files = {"val_label.txt", "val_label.csv"};
constexpr const char* validation = "val";

template <class List>
bool holds(const List& list, std::string_view word) {
    return std::find(list.begin(), list.end(), word) != list.end();
}

std::string lower(std::string text) {
    for (char& letter : text) {
        letter = 'A' <= letter && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter;
    }
    return text;
}

bool is_utf8(const std::string& name) {
    return detail::invalid_utf8(name) == std::string_view::npos;
}

/// Says whether a file's name is an image's; what it holds is judged when it is decoded.
bool is_image(const std::string& name) {
    const std::string text = lower(name);
    return std::any_of(image_suffixes.begin(), image_suffixes.end(), [&](std::string_view suffix) {
        return text.size() >= suffix.size() &&
               text.compare(text.size() - suffix.size(), suffix.size(), suffix) == 0;
    });
}

/// What a folder holds, sorted; `others` are neither folders nor images, or are links.
struct Listing {
    Names folders;
    Names images;
    Names others;
};

Listing list(const fs::path& folder) {
    Listing listing;
    std::error_code failed;
    fs::directory_iterator entry(folder, failed);
    for (const fs::directory_iterator end; !failed && entry != end; entry.increment(failed)) {
        const std::string name = entry->path().filename().string();
        if (name.front() == '.' || holds(left_behind, lower(name))) {
            continue;
        }
        const fs::file_status status = entry->symlink_status(failed);
        if (!is_utf8(name)) {
            listing.others.push_back(name);
        } else if (fs::is_directory(status)) {
            listing.folders.push_back(name);
        } else if (is_image(name) && fs::is_regular_file(status)) {
            listing.images.push_back(name);
        } else {
            listing.others.push_back(name);
        }
    }
    if (failed) {
        throw Error(Code::E_DATASET_UNREADABLE, folder.string()).got(failed.message());
    }
    for (Names* names : {&listing.folders, &listing.images, &listing.others}) {
        std::sort(names->begin(), names->end());
    }
    return listing;
}

std::string kind_of(const fs::path& file) {
    if (!is_utf8(file.string())) {
        return "a name that is not UTF-8";
    }
    std::error_code failed;
    const fs::file_status status = fs::symlink_status(file, failed);
    if (fs::is_symlink(status)) {
        return "a link";
    }
    return fs::is_regular_file(status) ? "a file of another name" : "a special file";
}

/// Refuses what is no image, but files of labels where they may lie.
void refuse_others(const fs::path& folder, const Names& others, bool may_hold_labels) {
    for (const auto& name : others) {
        if (!(may_hold_labels && holds(label_files, name))) {
            throw Error(Code::E_DATASET_FILE, (folder / name).string())
                .expected("a file named *.jpg, *.jpeg, *.png")
                .got(kind_of(folder / name))
                .hint("Move it out of the dataset.");
        }
    }
}

/// Says whether a folder's name is that of a class: a label's id, or a class's number.
bool is_class(const std::string& name, const std::vector<detail::Label>& labels) {
    const auto is_it = [&name](const detail::Label& label) { return label.id == name; };
    if (std::any_of(labels.begin(), labels.end(), is_it)) {
        return true;
    }
    constexpr std::size_t most_digits = 9;
    const bool is_number = !name.empty() && name.size() <= most_digits &&
                           name.find_first_not_of("0123456789") == std::string::npos &&
                           (name.front() != '0' || name.size() == 1);
    return is_number && std::stoul(name) < labels.size();
}

/// Returns the folder of the images or class folders: the one given, or its `val/`.
fs::path find_root(const fs::path& given, const std::vector<detail::Label>& labels) {
    std::error_code failed;
    if (!fs::is_directory(given, failed)) {
        Error error(Code::E_DATASET_NOT_FOUND, given.string());
        if (fs::is_regular_file(given, failed)) {
            error.got("a file");
        }
        throw error.hint(
            "Give the folder of the images or class folders, or the one above its val/.");
    }
    const fs::path root = given / validation;
    if (is_class(validation, labels) || !fs::is_directory(root, failed)) {
        return given;
    }
    const Listing listing = list(given);
    Names beside;
    std::copy_if(listing.folders.begin(), listing.folders.end(), std::back_inserter(beside),
                 [&labels](const std::string& name) { return is_class(name, labels); });
    beside.insert(beside.end(), listing.images.begin(), listing.images.end());
    if (!beside.empty()) {
        throw Error(Code::E_DATASET_LAYOUT, given.string())
            .got("both val/ and " + beside.front())
            .hint("Give " + root.string() + " if the dataset is that.");
    }
    return root;
}

Names in_class_folders(const fs::path& root, const Names& folders) {
    Names paths;
    for (const auto& name : folders) {
        const fs::path folder = root / name;
        const Listing inside = list(folder);
        if (!inside.folders.empty()) {
            throw Error(Code::E_DATASET_LAYOUT, folder.string())
                .got(inside.folders.front() + "/ inside a class folder");
        }
        refuse_others(folder, inside.others, false);
        if (inside.images.empty()) {
            throw Error(Code::E_DATASET_EMPTY, folder.string())
                .hint("Remove the folder, or fill it.");
        }
        for (const auto& image : inside.images) {
            paths.push_back(name + "/" + image);
        }
    }
    std::sort(paths.begin(), paths.end());
    return paths;
}

}  // namespace

std::vector<std::string> find_photographs(const std::string& folder,
                                          const std::vector<detail::Label>& labels) {
    std::error_code failed;
    fs::path given = fs::absolute(folder, failed).lexically_normal();
    given = given.has_filename() ? given : given.parent_path();
    const fs::path root = find_root(given, labels);
    const Listing listing = list(root);
    if (!listing.folders.empty() && !listing.images.empty()) {
        throw Error(Code::E_DATASET_LAYOUT, root.string())
            .got("both " + listing.folders.front() + "/ and " + listing.images.front());
    }
    refuse_others(root, listing.others, true);
    Names paths =
        listing.folders.empty() ? listing.images : in_class_folders(root, listing.folders);
    if (paths.empty()) {
        throw Error(Code::E_DATASET_EMPTY, root.string());
    }
    for (auto& path : paths) {
        path = (root / path).string();
    }
    return paths;
}

}  // namespace vitaie::edge
