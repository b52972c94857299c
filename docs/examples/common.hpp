// What both programs need: an image in, a result out.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
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

inline void print_result(float image_score, const float* anomaly_map, std::size_t height,
                         std::size_t width) {
    const float* peak = std::max_element(anomaly_map, anomaly_map + height * width);
    const auto place = static_cast<std::size_t>(peak - anomaly_map);
    std::cout << "image_score " << image_score << "\n"
              << "peak " << *peak << " at row " << place / width << ", column " << place % width
              << " of a map of " << height << " x " << width << "\n";
}
