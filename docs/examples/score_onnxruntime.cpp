// Judges one image with an exported graph in ONNX Runtime:
// score_onnxruntime MODEL.onnx IMAGE.ppm [RATE [PIXEL_RATE]]
#include <onnxruntime_cxx_api.h>

#include <array>
#include <filesystem>

#include "common.hpp"

int main(int argc, char** argv) {
    if (argc < 3 || argc > 5) {
        std::cerr << "error: Usage: score_onnxruntime MODEL.onnx IMAGE.ppm [RATE [PIXEL_RATE]]\n";
        return 2;
    }
    try {
        // Once, when the program starts. Threads may share a session.
        Rates rates = read_rates(argc, argv);
        Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "padim");
        Ort::SessionOptions options;
        const std::filesystem::path path(argv[1]);  // wide characters on Windows
        Ort::Session session(env, path.c_str(), options);
        if (session.GetInputCount() != 3) {
            throw std::runtime_error(std::string(argv[1]) +
                                     " has no verdict. Export it with --verdict.");
        }
        auto shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
        shape[0] = std::max<std::int64_t>(shape[0], 1);  // (N, H0, W0, 3); -1: any number
        const auto n_images = static_cast<std::size_t>(shape[0]);
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
        const char* inputs[] = {"image", "false_alarm_rate", "pixel_false_alarm_rate"};
        const char* outputs[] = {"anomaly_map", "image_score", "label", "p_value",
                                 "predicted_mask"};

        // For each image. A graph for several images at a time gets the same one in each place.
        const auto rgb = read_ppm(argv[2], static_cast<std::size_t>(shape[1]),
                                  static_cast<std::size_t>(shape[2]));
        std::vector<std::uint8_t> pixels;
        for (std::size_t i = 0; i < n_images; ++i) {
            pixels.insert(pixels.end(), rgb.begin(), rgb.end());
        }
        const std::int64_t one = 1;
        const std::array<Ort::Value, 3> given{
            Ort::Value::CreateTensor<std::uint8_t>(memory, pixels.data(), pixels.size(),
                                                   shape.data(), shape.size()),
            Ort::Value::CreateTensor<float>(memory, &rates.images, 1, &one, 1),
            Ort::Value::CreateTensor<float>(memory, &rates.pixels, 1, &one, 1)};
        const auto scored =
            session.Run(Ort::RunOptions{nullptr}, inputs, given.data(), 3, outputs, 5);
        const auto map_shape = scored[0].GetTensorTypeAndShapeInfo().GetShape();  // (N, H, W)
        print_result(scored[2].GetTensorData<std::uint8_t>()[0],
                     scored[3].GetTensorData<float>()[0], scored[4].GetTensorData<std::uint8_t>(),
                     scored[1].GetTensorData<float>()[0], scored[0].GetTensorData<float>(),
                     static_cast<std::size_t>(map_shape[1]),
                     static_cast<std::size_t>(map_shape[2]));
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << "\n";
        return 1;
    }
    return 0;
}
