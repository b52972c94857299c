// What both programs need: an image in, a result out.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

// A number of a PPM header; comments run from # to the end of the line.
inline std::size_t ppm_number(std::istream& file) {
    while ((file >> std::ws).peek() == '#') {
        file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    }
    std::size_t number = 0;
    file >> number;
    return number;
}

// RGB pixels of a binary PPM (P6, 8 bits), row by row, height * width * 3 bytes.
inline std::vector<std::uint8_t> read_ppm(const std::string& path, std::size_t height,
                                          std::size_t width) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw std::runtime_error(path + " cannot be opened.");
    }
    char magic[2] = {};
    file.read(magic, 2);
    const std::size_t image_width = ppm_number(file);
    const std::size_t image_height = ppm_number(file);
    const std::size_t maximum = ppm_number(file);
    if (!file || magic[0] != 'P' || magic[1] != '6' || maximum != 255) {
        throw std::runtime_error(path + " is no binary PPM (P6) of 8 bits.");
    }
    if (image_height != height || image_width != width) {
        throw std::runtime_error(path + " has " + std::to_string(image_height) + " x " +
                                 std::to_string(image_width) +
                                 " pixels (height x width), but the graph needs " +
                                 std::to_string(height) + " x " + std::to_string(width) + ".");
    }
    file.get();  // one white space ends the header
    std::vector<std::uint8_t> rgb(height * width * 3);
    file.read(reinterpret_cast<char*>(rgb.data()), static_cast<std::streamsize>(rgb.size()));
    if (!file) {
        throw std::runtime_error(path + " is cut short.");
    }
    return rgb;
}

// The rates of a verdict: -1 is the model's own choice, else above 0 and below 1.
struct Rates {
    float images = -1;
    float pixels = -1;
};

// Arguments after the image: RATE and PIXEL_RATE.
inline Rates read_rates(int argc, char** argv) {
    Rates rates;
    float* const given[] = {&rates.images, &rates.pixels};
    for (int i = 3; i < argc; ++i) {
        char* end = nullptr;
        float& rate = *given[i - 3];
        rate = std::strtof(argv[i], &end);
        if (end == argv[i] || *end != '\0' || !((rate > 0 && rate < 1) || rate == -1)) {
            throw std::runtime_error(std::string("The rate is ") + argv[i] +
                                     ", but needs to be above 0 and below 1, or -1.");
        }
    }
    return rates;
}

inline void print_result(std::uint8_t label, float p_value, const std::uint8_t* predicted_mask,
                         float image_score, const float* anomaly_map, std::size_t height,
                         std::size_t width) {
    const float* peak = std::max_element(anomaly_map, anomaly_map + height * width);
    const auto place = static_cast<std::size_t>(peak - anomaly_map);
    const auto n_above = std::count(predicted_mask, predicted_mask + height * width, 1);
    std::cout << "label " << (label == 0 ? "normal" : "anomalous") << ", p_value " << p_value
              << ", " << n_above << " pixels in the mask\n"
              << "image_score " << image_score << "\n"
              << "peak " << *peak << " at row " << place / width << ", column " << place % width
              << " of a map of " << height << " x " << width << "\n";
}
