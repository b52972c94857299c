// Judges one image with an exported graph in OpenVINO:
// score MODEL.xml|MODEL.onnx IMAGE.ppm [RATE [PIXEL_RATE]]
#include <openvino/runtime/core.hpp>
#include <openvino/runtime/properties.hpp>

#include "common.hpp"

int main(int argc, char** argv) {
    if (argc < 3 || argc > 5) {
        std::cerr << "error: Usage: score MODEL.xml|MODEL.onnx IMAGE.ppm [RATE [PIXEL_RATE]]\n";
        return 2;
    }
    try {
        // Once, when the program starts.
        Rates rates = read_rates(argc, argv);
        ov::Core core;
        const auto model = core.read_model(argv[1]);
        if (model->inputs().size() != 3) {
            throw std::runtime_error(std::string(argv[1]) +
                                     " has no verdict. Export it with --verdict.");
        }
        const auto axes = model->input("image").get_partial_shape();  // (N, H0, W0, 3)
        const std::size_t n_images = axes[0].is_dynamic() ? 1 : axes[0].get_length();
        const std::size_t height = axes[1].get_length();
        const std::size_t width = axes[2].get_length();
        const ov::Shape shape{n_images, height, width, 3};
        // A graph for any number of images is slower.
        model->reshape(std::map<std::string, ov::PartialShape>{{"image", shape}});
        auto compiled = core.compile_model(
            model, "CPU", ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
            ov::hint::inference_precision(ov::element::f32), ov::hint::enable_cpu_pinning(false));
        auto request = compiled.create_infer_request();  // one for each thread that scores
        const ov::Shape one{1};
        request.set_tensor("false_alarm_rate", ov::Tensor(ov::element::f32, one, &rates.images));
        request.set_tensor("pixel_false_alarm_rate",
                           ov::Tensor(ov::element::f32, one, &rates.pixels));

        // For each image. A graph for several images at a time gets the same one in each place.
        const auto rgb = read_ppm(argv[2], height, width);
        ov::Tensor image(ov::element::u8, shape);
        for (std::size_t i = 0; i < n_images; ++i) {
            std::copy(rgb.begin(), rgb.end(), image.data<std::uint8_t>() + i * rgb.size());
        }
        request.set_tensor("image", image);
        request.infer();
        const auto anomaly_map = request.get_tensor("anomaly_map");  // (N, H, W)
        const auto image_score = request.get_tensor("image_score");  // (N,)
        const auto label = request.get_tensor("label");              // (N,)
        const auto p_value = request.get_tensor("p_value");          // (N,)
        const auto mask = request.get_tensor("predicted_mask");      // (N, H, W)
        print_result(label.data<const std::uint8_t>()[0], p_value.data<const float>()[0],
                     mask.data<const std::uint8_t>(), image_score.data<const float>()[0],
                     anomaly_map.data<const float>(), anomaly_map.get_shape()[1],
                     anomaly_map.get_shape()[2]);
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << "\n";
        return 1;
    }
    return 0;
}
